"""The loop's context in a worker of Ray Train: gradients, rows and sums come together from all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn

from jobs.training.context import Watcher
from jobs.training.epoch import Epoch
from jobs.training.state import sharded
from jobs.training.update import blocks

if TYPE_CHECKING:
    from jobs.training.loop import Loop


class WorkerContext:
    """One process of Ray Train; every worker sees every row's metrics and so decides alike."""

    def __init__(self, strategy: str, watchers: Sequence[Watcher], halved: Callable[[int], None]) -> None:
        from ray import train
        from ray.train.torch import get_device

        context = train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = get_device()
        self.latest: Epoch | None = None
        self._strategy, self._watchers, self._on_halved = strategy, watchers, halved

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network in DistributedDataParallel, or itself with its blocks sharded over the workers."""
        if self._strategy == "fsdp":
            from torch.distributed.fsdp import fully_shard

            for block in blocks(network):
                fully_shard(block)
            fully_shard(network)
            return network
        if self.world_size == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)

    def synchronised(self, network: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Return a block in which gradients stay with their worker unless the micro-batch is the last."""
        if self._strategy == "fsdp":
            network.set_requires_gradient_sync(last)  # type: ignore[operator]  # what fully_shard gives it
            return nullcontext()
        if last or self.world_size == 1:
            return nullcontext()
        alone: AbstractContextManager[None] = network.no_sync()  # type: ignore[operator]  # of DistributedDataParallel
        return alone

    def whole(self, value: Tensor) -> Tensor:
        """Return the value that sharded gradients have together."""
        made: Tensor = value.full_tensor() if sharded(value) else value  # type: ignore[attr-defined]  # a DTensor
        return made

    def gather(self, own: Tensor, total: int) -> Tensor:
        """Interleave the workers' rows again (their counts differ by at most one)."""
        if self.world_size == 1:
            return own
        most = -(-total // self.world_size)
        padded = own.new_zeros((most, *own.shape[1:]))
        padded[: len(own)] = own
        return self.stack(padded).transpose(0, 1).flatten(0, 1)[:total]

    def stack(self, own: Tensor) -> Tensor:
        """Return every worker's tensor, [world_size, ...]."""
        if self.world_size == 1:
            return own[None]
        placed = own.to(self.device)
        everyone = [torch.empty_like(placed) for _ in range(self.world_size)]
        distributed.all_gather(everyone, placed)
        return torch.stack(everyone).to(own.device)

    def sum(self, value: float) -> float:
        """Return the sum over all workers."""
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            distributed.all_reduce(total)
        return float(total)

    def halved(self, micro_batch: int) -> None:
        """Let all workers start again from the last checkpoint with less: the others wait for this one's gradients."""
        self._on_halved(micro_batch)
        if self.world_size > 1:
            raise RuntimeError(f"out of memory; all workers start again, with {micro_batch} rows at once")

    def begin(self, loop: Loop) -> None:
        """Tell the watchers."""
        for watcher in self._watchers:
            watcher.begin(loop)

    def step_over(self, loop: Loop) -> None:
        """Tell the watchers."""
        for watcher in self._watchers:
            watcher.step_over(loop)

    def epoch_over(self, loop: Loop, epoch: Epoch) -> None:
        """Tell the watchers, and Ray Train (all workers have the same numbers); the last goes with the outcome."""
        from ray import train

        for watcher in self._watchers:
            watcher.epoch_over(loop, epoch)
        self.latest = epoch
        if not epoch.last:
            train.report(epoch.report())
