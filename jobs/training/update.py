"""One update of the weights from one batch: micro-batches, precision, clipping, out of memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import record_function

from conf.errors import BadInput
from conf.schema import Training
from jobs.training.batch import Batch
from jobs.training.context import Context
from jobs.training.loss import TrainingLoss

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class OutOfMemory(BadInput):
    """Not even one row fits."""


class Update:
    """Trains on one batch at a time; gradients are those of the whole batch, however it is cut.

    micro_batch: rows that a worker takes at once; halved when memory runs out (`on_halved` hears of it).
    """

    def __init__(
        self, training: Training, network: nn.Module, optimizer: Optimizer, loss: TrainingLoss, context: Context
    ) -> None:
        self._training, self._network, self._optimizer, self._loss = training, network, optimizer, loss
        self._context, self.parameters = context, list(network.parameters())
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=training.precision == "fp16")
        self.micro_batch = training.micro_batch

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take one step; return the summed loss over the own rows, and the gradient's norm before clipping."""
        while True:
            try:
                loss = self._gradients(batch)
                break
            except (RuntimeError, MemoryError) as error:
                if not _no_memory(error):
                    raise
                self._halve(batch, error)
        with record_function("optimizer"):
            self.scaler.unscale_(self._optimizer)
            norm = self._clip()
            self.scaler.step(self._optimizer)
            self.scaler.update()
        return loss, norm

    def _gradients(self, batch: Batch) -> Tensor:
        """Add up the gradients of the micro-batches, synchronised between workers once, in the last one."""
        self._optimizer.zero_grad()
        share = -(-batch.rows // self._context.world_size)  # of the worker that has most
        size = min(self.micro_batch or share, share)
        count = -(-share // size)
        total = torch.zeros((), device=self._context.device)
        scale = self._context.world_size / batch.rows  # workers' gradients are averaged, not summed
        for i in range(count):
            own = slice(i * size, (i + 1) * size)
            with self._context.synchronised(self._network, last=i == count - 1):
                loss = self._forward(tuple(part[own] for part in batch.inputs), batch.target[own])
                with record_function("backward"):
                    self.scaler.scale(loss * scale).backward()
            total = loss.detach() if count == 1 else total + loss.detach()
        return total

    def _forward(self, inputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
        with record_function("forward"), autocast(self._training, self._context):
            return self._loss(self._network(*inputs).float(), target)

    def _clip(self) -> Tensor:
        """Return the norm of all gradients, scaled down to training.gradient_clip where that is less."""
        if self._training.gradient_clip > 0:
            return self._context.whole(nn.utils.clip_grad_norm_(self.parameters, self._training.gradient_clip))
        gradients = [weights.grad for weights in self.parameters if weights.grad is not None]
        return self._context.whole(nn.utils.get_total_norm(gradients))

    def _halve(self, batch: Batch, error: BaseException) -> None:
        """Take half the rows from now on; raises OutOfMemory where that is less than one."""
        share = -(-batch.rows // self._context.world_size)
        size = min(self.micro_batch or share, share)
        self._optimizer.zero_grad()
        if self._context.device.type == "cuda":
            torch.cuda.empty_cache()
        if size <= 1:
            remedy = "say training.gradient_checkpointing=true, else scaling=fsdp, else training.precision=bf16"
            raise OutOfMemory("training.micro_batch", 1, "does not fit the memory", remedy) from error
        self.micro_batch = size // 2 + size % 2
        self._context.halved(self.micro_batch)


def autocast(training: Training, context: Context) -> torch.autocast:
    """Return the block in which products are computed in training.precision."""
    kind = _HALVES.get(training.precision)
    return torch.autocast(context.device.type, kind or torch.bfloat16, enabled=kind is not None)


def _no_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, on a GPU or (PyTorch has no type for it there) on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def prepared(network: nn.Module, training: Training) -> nn.Module:
    """Return the network as it is trained: its blocks computed anew in the backward pass, or compiled, as said."""
    from torch.utils.checkpoint import checkpoint

    def again(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *inputs: checkpoint(forward, *inputs, use_reentrant=False)

    if training.gradient_checkpointing:
        for block in blocks(network):
            block.forward = again(block.forward)
    if training.compile:
        check_compiler()
        network.compile()
    return network


def check_compiler() -> None:
    """Raise BadInput where PyTorch cannot compile for a CPU: without a compiler, or in a folder with a space."""
    if torch.cuda.is_available():
        return
    if " " in torch.__file__:
        bound = "cannot be done for a CPU where the path of PyTorch itself has a space"
        raise BadInput("training.compile", True, bound, "leave it out, or move the environment")
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise BadInput("training.compile", True, f"needs a C++ compiler, and there is no {compiler}", "install one")


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return the parts that are sharded or computed anew one by one: `network.blocks`, else children with weights."""
    own = getattr(network, "blocks", network)
    found = list[nn.Module]()
    for child in own.children():
        found += child.children() if isinstance(child, nn.ModuleList) else [child]
    return [child for child in found if any(True for _ in child.parameters())]
