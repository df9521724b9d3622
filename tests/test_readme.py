"""The README's shell blocks, run in order as a reader would, in a folder of their own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
LIMIT_S = 600


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory):
    """Copy what git has to a folder with a space, with python and ray first on the PATH and storage of its own."""
    folder = tmp_path_factory.mktemp("read me") / "rungway"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    commands = folder / "commands"
    commands.mkdir()
    for name, call in (("python", ""), ("ray", " -m ray.scripts.scripts")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{call} "$@"\n')
        (commands / name).chmod(0o755)
    dropped = ("RAY_AUTH_MODE", "RUNGWAY_STORAGE", "PYTHONPATH")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    yield folder, {**environment, "PATH": f"{commands}:{environment['PATH']}"}
    subprocess.run([sys.executable, "-m", "serve.stop"], cwd=folder, env=environment, check=False)


def run(reader, block: str) -> str:
    folder, environment = reader
    ended = subprocess.run(
        ["bash", "-eu", "-c", block],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return ended.stdout


EXPECTED = [
    ["flights version 1:", "flights version 5:"],
    ["best val_auc", "flights version 6:"],
    ["version 6  validation", "version 6  far_test", "report.html"],
    ["flights@challenger is version 6", '"predictions":', '"request_id":"first"', '{"accepted":1}', "stopped"],
    ["reproduced: the weights are bitwise the same"],
    ["challenger", "champion", "rows of far_test prove nothing", "mlflow ui", "succeeded", "stopped"],
    ['rungway_weight{model="flights"', "champion", "shadow", "flights: champion 100%", "stopped"],
    [
        "trials for val_log_loss (min)",
        "best val_log_loss",
        "epochs against",
        "('dataset=digits', 'model=mlp'",
    ],
    ["where the time goes", "digits version 1:", "digits version 2:"],
    ["my version 1", "rmse", "100 rows of test prove nothing", "my version 3"],
    ["wine version 1:", "wine version 3:"],
]


def test_every_block_has_its_expectation() -> None:
    assert len(BLOCKS) == len(EXPECTED)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(reader, number: int) -> None:
    said = run(reader, BLOCKS[number])
    for words in EXPECTED[number]:
        assert words in said, said
