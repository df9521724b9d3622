"""Every command answers --help at once, and ends a mistake with one sentence and exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENTRYPOINTS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("jobs", "serve", "cluster")
    for path in (ROOT / folder).glob("*.py")
    if "@entrypoint(" in path.read_text()
)
NAMED = ("jobs.promote", "jobs.traffic", "serve.deploy")
HEAVY = ("torch", "ray", "mlflow", "pandas", "pyarrow", "onnxruntime", "optuna")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, *command)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_commands_are_there() -> None:
    assert {"jobs.train", "jobs.tune", "jobs.evaluate", "jobs.promote", "jobs.traffic", "jobs.pipeline"} <= set(
        ENTRYPOINTS
    )
    assert {"serve.deploy", "serve.status", "serve.stop", "cluster.head"} <= set(ENTRYPOINTS)


@pytest.mark.parametrize("module", ENTRYPOINTS)
def test_help_imports_nothing_heavy(module: str) -> None:
    shown = run("-X", "importtime", "-m", module, "--help")
    assert shown.returncode == 0
    assert f"python -m {module}" in shown.stdout
    assert "Groups:" in shown.stdout
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert not imported & set(HEAVY)


def test_a_search_leaves_to_its_trials_and_its_page_what_only_they_need() -> None:
    shown = run("-c", "import jobs.tuning.search, sys; print(*sys.modules)")
    assert not {"torch", "sklearn", "matplotlib"} & set(shown.stdout.split()), "each delays the first trial"


@pytest.mark.parametrize("module", ENTRYPOINTS)
def test_an_unknown_key_ends_with_one_sentence(module: str) -> None:
    ended = run("-m", module, "+nonsense=1", *(["name=x"] if module in NAMED else []))
    assert ended.returncode == 2
    assert ended.stderr.startswith("nonsense: ")
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""
