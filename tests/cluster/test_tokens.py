"""Files of tokens: what is read from them, what is refused without being shown, and what is handed on."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import tokens
from cluster.tokens import VARIABLE
from conf.errors import BadInput
from conf.service import Http

SECRETS = {role: f"{role}-0123456789abcdef" for role in tokens.ROLES}
LINES = "".join(f"{role} {secret}\n" for role, secret in SECRETS.items())


def write(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


ROLE_AND_TOKEN = st.tuples(st.sampled_from(tokens.ROLES), st.from_regex(r"[A-Za-z0-9._~+/-]{16,40}=?", fullmatch=True))


WORDS = st.lists(st.sampled_from(["admin", "predict", *SECRETS.values(), "\n", "#"]))


SPOILT: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_text(""), "has no token"),
    (lambda path: path.write_text(f"predict {SECRETS['predict']}\nowner {SECRETS['admin']}"), "line 2 begins with no"),
    (lambda path: path.write_text("# new\n\nadmin 0123456789abcde"), "line 3 has a token shorter than 16 characters"),
    (lambda path: path.write_text(SECRETS["admin"]), "line 1 is not `role token`"),
    (lambda path: path.write_text("admin 0123456789abcdef#more"), "a character that no header may carry"),
    (lambda path: path.write_bytes(b"admin \xff0123456789abcdef"), "is not ASCII text"),
    (lambda path: path.chmod(0o640), "is open to others than its owner"),
    (lambda path: path.unlink(), "cannot be read (No such file or directory)"),
    (lambda path: (path.unlink(), path.mkdir()), "is not a file"),
    (lambda path: (path.unlink(), os.mkfifo(path, 0o600)), "is not a file"),
]


def mend(path: Path) -> None:
    if path.is_dir():
        path.rmdir()
    write(path.with_name("next"), LINES).replace(path)


@pytest.mark.parametrize(("spoil", "sentence"), SPOILT)
def test_a_spoilt_file_is_refused(tmp_path: Path, spoil, sentence) -> None:
    path = write(tmp_path / "tokens", LINES)
    spoil(path)
    with pytest.raises(BadInput, match=re.escape(sentence)) as why:
        tokens.read(path)
    assert "0123456789" not in str(why.value)


@settings(max_examples=200, deadline=None)
@given(st.lists(ROLE_AND_TOKEN, min_size=1, max_size=8), st.data())
def test_what_is_written_is_read_in_any_layout(said, data) -> None:
    gap = st.sampled_from([" ", "  ", "\t"])
    ends = st.sampled_from(["", "  # of the web shop", "\t#", "\n# a line of its own", "\n\n"])
    text = "\n".join(f"{role}{data.draw(gap)}{secret}{data.draw(ends)}" for role, secret in said)
    assert [(token.role, token.secret) for token in tokens.parse(text)] == said
    assert not [secret for _, secret in said if secret in repr(tokens.parse(text))]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | WORDS.map(" ".join))
def test_any_other_text_is_refused_without_being_shown(text) -> None:
    with pytest.raises(BadInput) as why:
        tokens.parse(f"{text}\nroot {SECRETS['admin']}")
    for word in [word for word in text.split() if len(word) > 11]:  # longer than any word of the sentences
        assert word not in str(why.value)


def test_the_environments_tokens_are_handed_on_as_a_file_of_this_user_alone(tmp_path, monkeypatch) -> None:
    assert tokens.kept(Http(), tmp_path, "houses") is None
    monkeypatch.setenv(VARIABLE, LINES)
    path = tokens.kept(Http(), tmp_path, "houses")
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert tokens.read(path) == tokens.parse(LINES)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    own = write(tmp_path / "own", f"admin {'a' * 16}")
    monkeypatch.chdir(tmp_path)
    assert tokens.kept(Http(token_file="own"), tmp_path, "houses") == own  # what is said goes before the environment
    tokens.forget(tmp_path)
    assert not path.exists()
    for spoilt in ("", "admin short"):
        monkeypatch.setenv(VARIABLE, spoilt)  # said, and of no use: not open by mistake
        with pytest.raises(BadInput, match=VARIABLE):
            tokens.kept(Http(), tmp_path, "houses")


def test_a_request_shows_the_first_token_that_will_do() -> None:
    found = tokens.parse(LINES)
    for role, secret in SECRETS.items():
        assert tokens.bearer(found, role) == {"authorization": f"Bearer {secret}"}
    assert tokens.bearer(found[2:], "predict") == {"authorization": f"Bearer {SECRETS['admin']}"}
    assert tokens.bearer(found[:2], "admin") == tokens.bearer([], "predict") == {}


def test_a_submitted_job_needs_an_absolute_path(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    with pytest.raises(BadInput, match="is relative, and a submitted job"):
        tokens.said(Http(token_file="tokens"))
    assert tokens.said(Http(token_file=str(write(tmp_path / "tokens", LINES)))) == tokens.parse(LINES)
