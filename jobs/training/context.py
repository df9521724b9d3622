"""Where the one loop runs: in this process (which may be a trial's actor), or as one worker of Ray Train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from jobs.training.epoch import Epoch

Report = Callable[[Epoch], None]


class Context(Protocol):
    """The one thing that differs between a process of its own and a worker."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module that synchronises gradients with the other workers."""

    def gather(self, own: Tensor, total: int) -> Tensor:
        """Return the rows of all workers, [total, ...], from each one's rows rank, rank + world_size, ..."""

    def sum(self, value: float) -> float:
        """Return the sum over all workers."""

    def report(self, epoch: Epoch) -> None:
        """Tell whoever watches that an epoch is over. A trial may be stopped there."""


class LocalContext:
    """In this process; `on_epoch` hears the reports."""

    rank, world_size = 0, 1

    def __init__(self, on_epoch: Report | None = None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._on_epoch = on_epoch

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module itself."""
        return module

    def gather(self, own: Tensor, total: int) -> Tensor:
        """Return the rows themselves."""
        return own

    def sum(self, value: float) -> float:
        """Return the value itself."""
        return value

    def report(self, epoch: Epoch) -> None:
        """Tell the listener."""
        if self._on_epoch is not None:
            self._on_epoch(epoch)


class WorkerContext:
    """One process of Ray Train; every worker sees every row's metrics and so decides alike."""

    def __init__(self) -> None:
        from ray import train
        from ray.train.torch import get_device

        context = train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = get_device()
        self.latest: Epoch | None = None

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module in DistributedDataParallel."""
        if self.world_size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module)

    def gather(self, own: Tensor, total: int) -> Tensor:
        """Interleave the workers' rows again (their counts differ by at most one)."""
        if self.world_size == 1:
            return own
        most = -(-total // self.world_size)
        padded = own.new_zeros((most, *own.shape[1:]))
        padded[: len(own)] = own
        everyone = [torch.empty_like(padded) for _ in range(self.world_size)]
        torch.distributed.all_gather(everyone, padded)
        return torch.stack(everyone, dim=1).flatten(0, 1)[:total]

    def sum(self, value: float) -> float:
        """Return the sum over all workers."""
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            torch.distributed.all_reduce(total)
        return float(total)

    def report(self, epoch: Epoch) -> None:
        """Report to Ray Train (all workers have the same numbers); the last goes with the outcome."""
        from ray import train

        self.latest = epoch
        if not epoch.last:
            train.report(epoch.report())
