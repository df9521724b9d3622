"""What a run was made from: data, split, code, environment, hardware, seed."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
_CODE = ("conf", "cluster", "jobs", "serve")


def lineage(data_hash: str, split_hash: str, seed: int) -> dict[str, str]:
    """Return the lineage as flat texts, fit for tags and JSON."""
    return {
        "data_hash": data_hash,
        "split_hash": split_hash,
        "seed": str(seed),
        "code_hash": code_hash(),
        "lock_hash": _hash([ROOT / "cluster" / "requirements.lock"]),
        "commit": commit(),
        "hardware": hardware(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "ray", "mlflow", "onnxruntime")},
    }


@cache
def code_hash() -> str:
    """Return the sha256 of all code and configuration, names included."""
    paths = [path for top in _CODE for path in (ROOT / top).rglob("*") if path.suffix in (".py", ".yaml")]
    return _hash(sorted(paths))


def _hash(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.relative_to(ROOT).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def commit() -> str:
    """Return $RUNGWAY_COMMIT, else git's commit ("+" where files differ from it), else "" (as in a submitted job)."""
    said = os.environ.get("RUNGWAY_COMMIT")
    if said:
        return said
    head = _git("rev-parse", "HEAD")
    return head + "+" if head and _git("status", "--porcelain", "--untracked-files=no") else head


def _git(*arguments: str) -> str:
    try:
        ended = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""


def hardware() -> str:
    """Return the processor, its cores and the GPU in words."""
    cpu = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor}, {os.cpu_count()} cores{gpu}"
