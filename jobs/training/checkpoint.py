"""Checkpoints of a run: written aside while training goes on, and whole or not there."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse, async_save

from conf.errors import BadInput
from jobs.training.folder import HALF, PREFIX, whole
from jobs.training.state import LoopState, sharded

PLAIN = "plain.json"
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # as it is in a process of its own
_KEPT = 2  # the latest, and the one before it


class Checkpoints:
    """The checkpoints of one run in a folder that all workers see; every worker makes the same calls.

    One is written under another name, and renamed when every worker's part of it is on disk
    (`torch.distributed.checkpoint`, so that another number of workers can read it).
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._group: distributed.ProcessGroup | None = None
        self._writing: tuple[Future[Any], Path] | None = None

    def save(self, state: LoopState, step: int) -> None:
        """Copy a state and write it aside as the checkpoint of so many steps; first wait for the one before it.

        Raises OSError where that one could not be written.
        """
        self.wait()
        half = self._folder / f"{PREFIX}{step:09d}{HALF}"
        if distributed.is_initialized() and self._group is None:
            self._group = distributed.new_group(backend="gloo")  # its messages never meet the gradients'
        if not self._prepare(half, state.plain):
            return
        alone = self._group is None
        written = async_save(dict(state.tensors), checkpoint_id=half, process_group=self._group, no_dist=alone)
        self._writing = (written.upload_completion if isinstance(written, AsyncSaveResponse) else written, half)

    def _prepare(self, half: Path, plain: dict[str, Any]) -> bool:
        """Let the first worker make the folder; return whether there is anything to save, to all of them."""
        error, there = None, False
        if self._rank == 0:
            try:
                there = half.with_suffix("").exists()
                shutil.rmtree(half, ignore_errors=True)
                half.mkdir(parents=True)
                (half / PLAIN).write_text(json.dumps(plain))
            except OSError as full:
                error = full
        told = torch.tensor([there, error is not None], dtype=torch.uint8)
        if self._group is not None:
            distributed.broadcast(told, 0, self._group)
        there, failed = (bool(value) for value in told)
        if failed:
            raise error or OSError(None, "the first worker could not write")
        return not there

    def wait(self) -> None:
        """Wait until what is being written is there; raises OSError where it cannot be."""
        if self._writing is None:
            return
        (written, half), self._writing = self._writing, None
        try:
            written.result()
        except (Exception, CheckpointException) as error:
            if self._rank == 0:
                shutil.rmtree(half, ignore_errors=True)
            cause = _os_error(error)
            raise cause or error from error
        if self._rank == 0:
            half.replace(half.with_suffix(""))
            for old in whole(self._folder)[:-_KEPT]:
                shutil.rmtree(old)


def read(checkpoint: Path, own: LoopState, parameters: Sequence[Tensor]) -> LoopState:
    """Return a checkpoint's state, sharded as a training's own state and weights are at its start.

    Raises BadInput, saying which tensors differ, where it is of another model.
    """
    plain = json.loads((checkpoint / PLAIN).read_text())
    reader = FileSystemReader(checkpoint)
    metadata: Metadata = reader.read_metadata()
    kinds = {k: v for k, v in metadata.state_dict_metadata.items() if isinstance(v, TensorStorageMetadata)}
    _check_same_model(checkpoint, kinds, own)
    tensors = {name: _empty(kind, _weights_of(name, own, parameters)) for name, kind in kinds.items()}
    load(tensors, storage_reader=reader, no_dist=not distributed.is_initialized())
    return LoopState(tensors, plain)


def _empty(kind: TensorStorageMetadata, like: Tensor | None) -> Tensor:
    """Return where a tensor is read into: sharded as the weights that it belongs to."""
    if like is not None and sharded(like) and like.shape == kind.size:
        return torch.zeros_like(like, dtype=kind.properties.dtype)
    return torch.empty(kind.size, dtype=kind.properties.dtype)


def _weights_of(name: str, own: LoopState, parameters: Sequence[Tensor]) -> Tensor | None:
    """Return the weights that a tensor is a copy of, or an optimizer's state or an average for."""
    part, _, rest = name.partition(".")
    if part in ("optimizer", "average"):
        return parameters[int(rest.split(".")[0])]
    return own.tensors.get(f"network.{rest}")


def _check_same_model(checkpoint: Path, kinds: dict[str, TensorStorageMetadata], own: LoopState) -> None:
    then = {name: tuple(kind.size) for name, kind in kinds.items() if name.startswith("network.")}
    now = {name: tuple(value.shape) for name, value in own.tensors.items() if name.startswith("network.")}
    differ = [
        f"{name.removeprefix('network.')} is {_shape(then.get(name))} there and {_shape(now.get(name))} here"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
    if differ:
        shown = "; ".join(differ[:3]) + (f"; and {len(differ) - 3} more" if len(differ) > 3 else "")
        raise BadInput("resume", str(checkpoint), f"is of another model ({shown})", "say the model it was trained with")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not" if shape is None else "x".join(map(str, shape)) or "a number"


def _os_error(error: BaseException | None) -> OSError | None:
    """Return the operating system's error behind one of PyTorch's."""
    while error is not None and not isinstance(error, OSError):
        failures = getattr(error, "failures", None) or {}
        inner = next((f[0] if isinstance(f, tuple) else f for f in failures.values()), None)
        error = inner if isinstance(inner, BaseException) else error.__cause__
    return error
