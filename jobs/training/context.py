"""Where the one loop runs: in this process (which may be a trial's actor), or as one worker of Ray Train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from jobs.training.epoch import Epoch

if TYPE_CHECKING:
    from jobs.training.loop import Loop

Report = Callable[[Epoch], None]


class Watcher(Protocol):
    """Whoever looks on while a run trains: it keeps checkpoints, records epochs, and may end the run."""

    def begin(self, loop: Loop) -> None:
        """Hear that the loop is about to start."""

    def step_over(self, loop: Loop) -> None:
        """Hear that one more batch was trained on."""

    def epoch_over(self, loop: Loop, epoch: Epoch) -> None:
        """Hear that an epoch is over."""


class Context(Protocol):
    """The one thing that differs between a process of its own and a worker."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the module that synchronises gradients with the other workers."""

    def synchronised(self, network: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Return a block in which a backward pass synchronises gradients only if it is the batch's last."""

    def whole(self, value: Tensor) -> Tensor:
        """Return a value of which each worker may hold a part."""

    def gather(self, own: Tensor, total: int) -> Tensor:
        """Return the rows of all workers, [total, ...], from each one's rows rank, rank + world_size, ..."""

    def stack(self, own: Tensor) -> Tensor:
        """Return every worker's tensor of one shape, [world_size, ...]."""

    def sum(self, value: float) -> float:
        """Return the sum over all workers."""

    def halved(self, micro_batch: int) -> None:
        """Hear that memory ran out, and that so many rows will be taken at once."""

    def begin(self, loop: Loop) -> None:
        """Hear that the loop is about to start."""

    def step_over(self, loop: Loop) -> None:
        """Hear that one more batch was trained on."""

    def epoch_over(self, loop: Loop, epoch: Epoch) -> None:
        """Tell whoever watches that an epoch is over. A trial may be stopped there."""


class LocalContext:
    """In this process; `on_epoch` hears the reports, the watchers each step too."""

    rank, world_size = 0, 1

    def __init__(self, on_epoch: Report | None = None, watchers: Sequence[Watcher] = ()) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._on_epoch, self._watchers = on_epoch, watchers

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the module itself."""
        return network

    def synchronised(self, network: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Return a block that does nothing."""
        return nullcontext()

    def whole(self, value: Tensor) -> Tensor:
        """Return the value itself."""
        return value

    def gather(self, own: Tensor, total: int) -> Tensor:
        """Return the rows themselves."""
        return own

    def stack(self, own: Tensor) -> Tensor:
        """Return the tensor as the only one."""
        return own[None]

    def sum(self, value: float) -> float:
        """Return the value itself."""
        return value

    def halved(self, micro_batch: int) -> None:
        """Do nothing: the loop goes on with less."""

    def begin(self, loop: Loop) -> None:
        """Tell the watchers."""
        for watcher in self._watchers:
            watcher.begin(loop)

    def step_over(self, loop: Loop) -> None:
        """Tell the watchers."""
        for watcher in self._watchers:
            watcher.step_over(loop)

    def epoch_over(self, loop: Loop, epoch: Epoch) -> None:
        """Tell the watchers and the listener."""
        for watcher in self._watchers:
            watcher.epoch_over(loop, epoch)
        if self._on_epoch is not None:
            self._on_epoch(epoch)
