"""The only training loop: a function of (config, data, context). A trial is a training run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils import deterministic

from conf.component import make
from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.models.predictor import Predictor, build
from jobs.training.context import Context, Epoch
from jobs.training.metrics import selection_metric, validation_metrics
from jobs.training.tensors import Tensors, TrainingData

State = dict[str, Tensor]


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the kept epoch's weights and metrics, and every epoch's metrics in order."""

    state: State
    metrics: dict[str, float]
    kept_epoch: int
    history: tuple[dict[str, float], ...]

    @property
    def weights_sha256(self) -> str:
        """Return the hash of all weights: equal for bitwise equal models."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state.items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass
class _Kept:
    """The epoch whose weights are kept so far: the best by the selection metric, or the last."""

    metric: str
    direction: str
    keep: str
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    state: State = field(default_factory=dict)

    def offer(self, epoch: int, metrics: dict[str, float], predictor: Predictor) -> None:
        value, best = metrics[self.metric], self.metrics.get(self.metric)
        better = best is None or (value > best if self.direction == "max" else value < best)
        if better or self.keep == "last":
            self.epoch, self.metrics = epoch, metrics
            self.state = {name: tensor.detach().cpu().clone() for name, tensor in predictor.state_dict().items()}


@dataclass(frozen=True)
class _Resident:
    """One part on the device, features made once: features [N, F], codes [N, b], target [N]."""

    features: Tensor
    codes: Tensor
    target: Tensor


def fit(cfg: TrainConfig, data: TrainingData, context: Context) -> Outcome:
    """Train one model, reporting each epoch to the context; see `epochs`."""
    loop = epochs(cfg, data, context)
    while True:
        try:
            epoch = next(loop)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        context.report(epoch)


def epochs(cfg: TrainConfig, data: TrainingData, context: Context) -> Generator[Epoch, None, Outcome]:
    """Train one model, yielding each epoch; the same seed, data and number of workers give bitwise the same weights.

    Every worker holds all rows and takes rows rank, rank + world_size, ... of each batch of
    `training.batch_size`, so that the sum of gradients is that of one process.
    Raises BadInput when the loss is no longer finite.
    """
    metric, direction = selection_metric(data.schema.task, cfg.training.metric)
    torch.set_num_threads(cfg.training.num_threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs a fifth of the time
    torch.manual_seed(cfg.seed)
    predictor = build(cfg.model, data.schema, data.train.encoded(), data.train.target).to(context.device)
    torch.manual_seed(cfg.seed * 1_000_003 + context.rank)  # dropout differs between workers
    train, validation = (_resident(predictor, part, context) for part in (data.train, data.validation))
    network = context.wrap(predictor.network)
    optimizer = make("optimizer", cfg.optimizer, Optimizer, params=network.parameters())
    lr_schedule = make("lr_schedule", cfg.lr_schedule, LRScheduler, optimizer=optimizer)
    kept, history = _Kept(metric, direction, cfg.training.keep), []
    for number in range(1, cfg.training.epochs + 1):
        lr = optimizer.param_groups[0]["lr"]
        loss = _one_epoch(cfg, predictor, network, optimizer, train, number, context)
        if not math.isfinite(loss):
            remedy = "lower it, or lower training.gradient_clip"
            raise BadInput("optimizer.lr", cfg.optimizer.get("lr"), f"made the loss {loss} in epoch {number}", remedy)
        lr_schedule.step()
        metrics = {"train_loss": loss, **_validate(predictor, validation, context), "lr": lr}
        history.append(metrics)
        kept.offer(number, metrics, predictor)
        last = (
            number == cfg.training.epochs or number - kept.epoch >= cfg.training.patience
        )  # never where the last is kept
        yield Epoch(number, metrics, kept.metrics[metric], last)
        if last:
            break
    return Outcome(kept.state, kept.metrics, kept.epoch, tuple(history))


def _resident(predictor: Predictor, part: Tensors, context: Context) -> _Resident:
    device = context.device
    with torch.no_grad():
        features = predictor.features(part.numbers.to(device), part.times.to(device))
    return _Resident(features, part.codes.to(device), part.target.to(device))


def _one_epoch(
    cfg: TrainConfig,
    predictor: Predictor,
    network: torch.nn.Module,
    optimizer: Optimizer,
    train: _Resident,
    epoch: int,
    context: Context,
) -> float:
    """Run one epoch and return the mean loss over its rows."""
    shuffling = torch.Generator().manual_seed(cfg.seed * 1_000_003 + epoch)
    order = torch.randperm(len(train.target), generator=shuffling).to(context.device)
    total = torch.zeros((), dtype=torch.float64, device=context.device)
    network.train()
    for batch in order.split(cfg.training.batch_size):
        own = batch[context.rank :: context.world_size]
        outputs = network(train.features[own], train.codes[own])
        loss = predictor.loss_sum(outputs, train.target[own])
        optimizer.zero_grad()
        (loss * (context.world_size / len(batch))).backward()  # workers' gradients are averaged, not summed
        if cfg.training.gradient_clip > 0:
            torch.nn.utils.clip_grad_norm_(network.parameters(), cfg.training.gradient_clip)
        optimizer.step()
        total += loss.detach()
    return context.sum(float(total)) / len(train.target)


@torch.no_grad()
def _validate(predictor: Predictor, validation: _Resident, context: Context) -> dict[str, float]:
    """Return the metrics over the whole validation part, each worker having computed its rows."""
    predictor.network.eval()
    rows = slice(context.rank, None, context.world_size)
    pairs = zip(validation.features[rows].split(8192), validation.codes[rows].split(8192), strict=True)
    outputs = torch.cat([predictor.network(features, codes) for features, codes in pairs])
    outputs = context.gather(outputs, len(validation.target))
    loss = float(predictor.loss_sum(outputs, validation.target)) / len(validation.target)
    answers, target = predictor.answer(outputs).cpu(), validation.target.cpu()
    return {"val_loss": loss, **validation_metrics(predictor.task, answers, target)}
