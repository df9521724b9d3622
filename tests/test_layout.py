"""The house rules that a script can see."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP = {"conf", "cluster", "jobs", "serve", "tests", "pyproject.toml", "README.md", "Makefile", "LICENSE"}
FILES = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
CODE = [name for name in FILES if name.endswith(".py") and (ROOT / name).exists()]


def test_the_top_level_is_as_agreed() -> None:
    assert {name.split("/")[0] for name in FILES if not name.startswith(".")} == TOP


def test_ci_calls_make_test_and_nothing_else() -> None:
    said = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if not line.startswith(("#", "set", "cd"))]
    assert said == ["make test"]


@pytest.mark.parametrize("name", CODE)
def test_files_and_functions_are_short_and_named(name: str) -> None:
    text = (ROOT / name).read_text()
    assert text.count("\n") <= 300
    assert Path(name).stem not in ("utils", "helpers", "common", "misc", "base")
    assert not (name.startswith("tests/") and name.endswith("__init__.py"))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, node.name
