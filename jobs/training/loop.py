"""The only training loop: a function of (config, data, context). A trial is a training run."""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils import deterministic

from conf.component import make
from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.models.features import tensor
from jobs.models.predictor import Predictor, build
from jobs.training.context import Context
from jobs.training.epoch import Epoch
from jobs.training.examples import Examples, TrainingData
from jobs.training.metrics import selection_metric, validation_metrics, worst

State = dict[str, Tensor]
LATENCY_RUNS = 25


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
        for name, weights in sorted(self.state.items()):
            digest.update(name.encode())
            digest.update(weights.contiguous().numpy().tobytes())
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
        better = best is None or math.isnan(best) or (value > best if self.direction == "max" else value < best)
        if better or self.keep == "last":
            self.epoch, self.metrics = epoch, metrics
            self.state = {name: tensor.detach().cpu().clone() for name, tensor in predictor.state_dict().items()}


@dataclass(frozen=True)
class _Resident:
    """One part on the device, features made once: features [N, F], codes [N, b], target [N]."""

    features: Tensor
    codes: Tensor
    target: Tensor


class Diverged(BadInput):
    """The loss is no longer finite."""


def fit(cfg: TrainConfig, data: TrainingData, context: Context) -> Outcome:
    """Train one model, reporting each epoch to the context; see `Loop`."""
    loop = Loop(cfg, data, context)
    for epoch in loop:
        context.report(epoch)
    return loop.outcome()


class Loop:
    """One training, an epoch at a time; the same seed, data and number of workers give bitwise the same weights.

    Every worker holds all rows and takes rows rank, rank + world_size, ... of each batch of
    `training.batch_size`, so that the sum of gradients is that of one process. Several loops may take turns in one
    process: each has a random stream of its own. `state_dict` is all that another process needs to go on bitwise.
    """

    def __init__(self, cfg: TrainConfig, data: TrainingData, context: Context) -> None:
        self._cfg, self._context = cfg, context
        self._metric, direction = selection_metric(data.schema.task, cfg.training.metric)
        self._worst = worst(direction)
        torch.set_num_threads(cfg.training.num_threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs a fifth of the time
        torch.manual_seed(cfg.seed)
        predictor = build(cfg.model, data.schema, data.train.inputs, data.train.target).to(context.device)
        torch.manual_seed(cfg.seed * 1_000_003 + context.rank)  # dropout differs between workers
        self._random = random_state()
        self._predictor = predictor
        self._train, self._validation = (_resident(predictor, part, context) for part in (data.train, data.validation))
        self._network = context.wrap(predictor.network)
        self._optimizer = make("optimizer", cfg.optimizer, Optimizer, params=self._network.parameters())
        self._lr_schedule = make("lr_schedule", cfg.lr_schedule, LRScheduler, optimizer=self._optimizer)
        self._kept = _Kept(self._metric, direction, cfg.training.keep)
        self._history: list[dict[str, float]] = []
        self._last = False

    def __iter__(self) -> Iterator[Epoch]:
        """Return the epochs still to come."""
        return self

    def __next__(self) -> Epoch:
        """Train one epoch more; raises Diverged when the loss is no longer finite."""
        if self._last:
            raise StopIteration
        cfg, number = self._cfg, len(self._history) + 1
        set_random_state(self._random)
        lr = self._optimizer.param_groups[0]["lr"]
        loss = _one_epoch(cfg, self._predictor, self._network, self._optimizer, self._train, number, self._context)
        if not math.isfinite(loss):
            remedy = "lower it, or lower training.gradient_clip"
            raise Diverged("optimizer.lr", cfg.optimizer.get("lr"), f"made the loss {loss} in epoch {number}", remedy)
        self._lr_schedule.step()
        metrics = {"train_loss": loss, **_validate(self._predictor, self._validation, self._context), "lr": lr}
        self._history.append(metrics)
        self._kept.offer(number, metrics, self._predictor)
        self._random = random_state()
        waited = number - self._kept.epoch  # never grows where the last is kept
        self._last = number == cfg.training.epochs or waited >= cfg.training.patience
        objective = self._kept.metrics[self._metric]
        samples = number * len(self._train.target)
        return Epoch(number, samples, metrics, self._worst if math.isnan(objective) else objective, self._last)

    def latency_ms(self) -> float:
        """Return the median milliseconds that the network takes for one row here."""
        network, took = self._predictor.network.eval(), []
        with torch.no_grad():
            for _ in range(LATENCY_RUNS):
                started = time.perf_counter()
                network(self._train.features[:1], self._train.codes[:1]).cpu()
                took.append((time.perf_counter() - started) * 1000)
        return statistics.median(took)

    def parameters(self) -> int:
        """Return how many weights are trained."""
        return sum(weights.numel() for weights in self._network.parameters())

    def outcome(self) -> Outcome:
        """Return what is kept so far."""
        return Outcome(self._kept.state, self._kept.metrics, self._kept.epoch, tuple(self._history))

    def state_dict(self) -> dict[str, Any]:
        """Return the training as it stands between two epochs."""
        kept = self._kept
        return {
            "network": self._predictor.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "lr_schedule": self._lr_schedule.state_dict(),
            "random": self._random,
            "history": self._history,
            "kept": {"epoch": kept.epoch, "metrics": kept.metrics, "state": kept.state},
            "last": self._last,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, with the optimizer settings of this loop's own config.

        They are the same for a training taken up again; in population based training they were perturbed.
        """
        self._predictor.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._lr_schedule.load_state_dict(state["lr_schedule"])
        for i, group in enumerate(self._optimizer.param_groups):
            then = self._lr_schedule.base_lrs[i]
            group.update({key: value for key, value in self._cfg.optimizer.items() if key in group and key != "lr"})
            self._lr_schedule.base_lrs[i] = group["initial_lr"] = self._cfg.optimizer.get("lr", then)
            group["lr"] *= group["initial_lr"] / then if then else 1.0
        self._random, self._history, self._last = state["random"], list(state["history"]), state["last"]
        kept = state["kept"]
        self._kept.epoch, self._kept.metrics, self._kept.state = kept["epoch"], kept["metrics"], kept["state"]

    @property
    def history(self) -> Sequence[dict[str, float]]:
        """Return every epoch's metrics in order."""
        return self._history


def random_state() -> dict[str, Tensor]:
    """Return the state of this process's random streams."""
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {"cpu": torch.get_rng_state(), **({"cuda": torch.cuda.get_rng_state()} if on_gpu else {})}


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Go on from what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _resident(predictor: Predictor, part: Examples, context: Context) -> _Resident:
    inputs, device = part.inputs, context.device
    with torch.no_grad():
        features = predictor.features(tensor(inputs.numbers).to(device), tensor(inputs.times).to(device))
    codes, target = (tensor(array).to(device, copy=True) for array in (inputs.codes, part.target))
    return _Resident(features, codes, target)  # its own memory: a person's network may write into what it is given


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
