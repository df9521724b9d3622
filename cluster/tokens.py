"""Tokens that serving asks for, and the role of each: read from a file or from RUNGWAY_TOKENS, and never shown.

One line for each: a role, a token; "#" begins a comment. A role may have several, all valid, so that a new one can be
handed out before an old one goes. An admin's token is good for everything.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cluster.storage import submitted
from conf.errors import BadInput, nearest
from conf.service import Http

VARIABLE, KEY = "RUNGWAY_TOKENS", "serving.http.token_file"
PREDICT, FEEDBACK, ADMIN = ROLES = ("predict", "feedback", "admin")
SHORTEST = 16
MOST_BYTES = 1_000_000
_COMMENT = re.compile(r"(^|\s)#.*")
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1

Mark = tuple[int, ...]


@dataclass(frozen=True)
class Token:
    """A secret and what it is good for."""

    role: str
    secret: str = field(repr=False)

    def allows(self, role: str) -> bool:
        """Tell whether the token is enough for a role."""
        return self.role in (role, ADMIN)


def parse(text: str, key: str = VARIABLE, value: str | None = None) -> list[Token]:
    """Read lines of `role token`; raises BadInput (key, value) naming the line at fault, never what stands there."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = _COMMENT.sub("", line).split()
        if not words:
            continue
        if len(words) != 2:
            raise BadInput(key, value, f"line {number} is not `role token`", f"give a role ({', '.join(ROLES)}) first")
        role, secret = words
        if role not in ROLES:  # which may be a token that lacks its role
            raise BadInput(key, value, f"line {number} begins with no role", nearest("", ROLES))
        if len(secret) < SHORTEST:
            bound = f"line {number} has a token shorter than {SHORTEST} characters"
            raise BadInput(key, value, bound, "make one with: openssl rand -hex 32")
        if not _BEARER.fullmatch(secret):
            bound = f"line {number} has a token with a character that no header may carry"
            raise BadInput(key, value, bound, "use letters, digits and -._~+/")
        found.append(Token(role, secret))
    if not found:
        raise BadInput(key, value, "has no token", "give lines of `role token`, or leave it out")
    return found


def read(path: Path) -> list[Token]:
    """Read a file of tokens; raises BadInput where it is spoilt, or others than its owner may read or change it."""
    try:
        source = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
        try:
            mode = os.fstat(source).st_mode
            if not stat.S_ISREG(mode):
                raise BadInput(KEY, str(path), "is not a file", "give a file of lines `role token`")
            if mode & 0o077:
                raise BadInput(KEY, str(path), "is open to others than its owner", "run chmod 600 on it")
            text = os.read(source, MOST_BYTES).decode("ascii")
        finally:
            os.close(source)
    except OSError as error:
        raise BadInput(KEY, str(path), f"cannot be read ({error.strerror})", "give a file that you may read") from error
    except UnicodeDecodeError:  # it would show what stands there
        raise BadInput(KEY, str(path), "is not ASCII text", "give lines of `role token`") from None
    return parse(text, KEY, str(path))


def mark(path: Path) -> Mark:
    """Return what changes when a file does; raises BadInput where it is not there."""
    try:
        said = path.stat()
    except OSError as error:
        raise BadInput(KEY, str(path), f"cannot be read ({error.strerror})", "put it back") from error
    return said.st_mtime_ns, said.st_ctime_ns, said.st_size, said.st_ino


def said(http: Http) -> list[Token]:
    """Return the tokens of serving.http.token_file, else of RUNGWAY_TOKENS; none where neither is said."""
    if http.token_file is not None:
        if submitted() and not Path(http.token_file).is_absolute():
            bound = "is relative, and a submitted job runs in a copy that Ray deletes later"
            raise BadInput(KEY, http.token_file, bound, "give an absolute path")
        return read(Path(http.token_file).expanduser())
    return parse(os.environ[VARIABLE]) if VARIABLE in os.environ else []


def kept(http: Http, storage: Path, name: str) -> Path | None:
    """Return the absolute path that replicas read tokens from, None where nobody says any.

    What RUNGWAY_TOKENS says is written to a file of this user alone: a path may be shown by dashboards, a token not.
    """
    if not said(http):
        return None
    if http.token_file is not None:
        return Path(http.token_file).expanduser().absolute()
    path = _of_environment(storage, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as output:
        output.write(os.environ[VARIABLE])
    return unfinished.rename(path)


def forget(storage: Path) -> None:
    """Remove what `kept` has written for applications that have ended."""
    for path in storage.glob("serving/*/tokens"):
        path.unlink(missing_ok=True)


def bearer(tokens: Iterable[Token], role: str) -> dict[str, str]:
    """Return the header that shows a token good for a role; none where there is no such token."""
    for token in tokens:
        if token.allows(role):
            return {"authorization": f"Bearer {token.secret}"}
    return {}


def _of_environment(storage: Path, name: str) -> Path:
    return storage / "serving" / name / "tokens"
