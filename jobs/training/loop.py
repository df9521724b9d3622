"""The only training loop: a function of (config, data, context). A trial is a training run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import deterministic

from conf.component import make
from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.models.features import tensor
from jobs.models.predictor import build
from jobs.training.average import Average
from jobs.training.batch import steps
from jobs.training.batches import Batches, batches
from jobs.training.context import Context
from jobs.training.epoch import Epoch
from jobs.training.examples import TrainingData
from jobs.training.loss import TrainingLoss
from jobs.training.lr_schedule import LrSchedule
from jobs.training.metrics import selection_metric, validation_metrics, worst
from jobs.training.outcome import Kept, Outcome, State
from jobs.training.state import (
    LoopState,
    load_optimizer_state,
    nested,
    optimizer_state,
    prefixed,
    random_state,
    set_random_state,
    sharded,
)
from jobs.training.update import Update, autocast, prepared

LATENCY_RUNS = 25
LOOKED_AT = 64  # steps on a GPU between two looks at the losses: a look waits for it


class Diverged(BadInput):
    """The loss is no longer finite."""


def fit(cfg: TrainConfig, data: TrainingData, context: Context) -> Outcome:
    """Train one model, telling the context of each epoch; see `Loop`."""
    loop = Loop(cfg, data, context)
    context.begin(loop)
    for epoch in loop:
        context.epoch_over(loop, epoch)
    return loop.outcome()


class Loop:
    """One training, an epoch at a time; the same seed, data and number of workers give bitwise the same weights.

    Every worker takes rows rank, rank + world_size, ... of each batch of `training.batch_size`, so that the sum of
    gradients is that of one process. Several loops may take turns in one process: each has a random stream of its own.
    `state` is all that another process needs to go on bitwise, also from the middle of an epoch.
    """

    def __init__(self, cfg: TrainConfig, data: TrainingData, context: Context) -> None:
        self._cfg, self.context = cfg, context
        self._metric, direction = selection_metric(data.schema.task, cfg.training.metric)
        self._worst = worst(direction)
        _set_process(cfg)
        torch.manual_seed(cfg.seed)
        predictor = build(cfg.model, data.schema, data.train.inputs, data.train.target).to(context.device)
        torch.manual_seed(cfg.seed * 1_000_003 + context.rank)  # dropout differs between workers
        self._random = random_state()
        self._predictor = predictor
        self._train, self._validation = (batches(predictor, part, context) for part in (data.train, data.validation))
        self.network = context.wrap(prepared(predictor.network, cfg.training))
        self._optimizer = make("optimizer", cfg.optimizer, Optimizer, params=self.network.parameters())
        loss = TrainingLoss(cfg.training, predictor, tensor(data.train.target).to(context.device))
        self.update = Update(cfg.training, self.network, self._optimizer, loss, context)
        self._average = Average(self.update.parameters, cfg.training.average)
        self._steps_per_epoch = steps(cfg.training, self._train.rows)
        self._lr_schedule = LrSchedule(cfg.lr_schedule, self._optimizer, self._steps_per_epoch, direction)
        self._kept = Kept(self._metric, direction, cfg.training.keep)
        self._history: list[dict[str, float]] = []
        self._lr, self._position, self._totals = 0.0, 0, self._zeros()
        self._losses: list[Tensor] = []  # not looked at yet
        self._inside = self._last = False

    def __iter__(self) -> Iterator[Epoch]:
        """Return the epochs still to come."""
        return self

    def __next__(self) -> Epoch:
        """Train one epoch more, from where a state was taken up; raises Diverged where the loss is not finite."""
        if self._last:
            raise StopIteration
        set_random_state(self._random)
        if self._position == 0:
            self._lr = float(self._optimizer.param_groups[0]["lr"])
        self._inside = True
        try:
            self._train_epoch()
        finally:
            self._inside = False
        with self._average.in_place():
            metrics = {"train_loss": self._mean_loss(), **self.validate(self._validation), "lr": self._lr}
            metrics["gradient_norm"] = float(self._totals[1]) / max(1, self._position)
            self._history.append(metrics)
            self._kept.offer(self.epoch, metrics, self._weights)
        self._lr_schedule.epoch_over(metrics[self._metric])
        self._random, self._position, self._totals = random_state(), 0, self._zeros()
        waited = self.epoch - self._kept.epoch  # never grows where the last is kept
        self._last = self.epoch == self._cfg.training.epochs or waited >= self._cfg.training.patience
        objective = self._kept.metrics[self._metric]
        objective = self._worst if math.isnan(objective) else objective
        return Epoch(self.epoch, self.samples, metrics, objective, self._last)

    def _train_epoch(self) -> None:
        """Train on the batches of this epoch that are left."""
        self.network.train()
        for batch in self._train.epoch(self._cfg.training, self._cfg.seed, self.epoch + 1, self._position):
            loss, norm = self.update(batch)
            self._losses.append(loss)
            self._totals += torch.stack([loss, norm])
            self._average.update()
            self._lr_schedule.step_taken()
            self._position += 1
            if len(self._losses) >= LOOKED_AT or loss.device.type == "cpu":
                self._look()
            self.context.step_over(self)
        self._look()

    def _look(self) -> None:
        """Raise Diverged, naming the step, where one of the losses since the last look is not finite."""
        losses, self._losses = self._losses, []
        finite = [math.isfinite(float(loss)) for loss in losses]
        if not all(finite):
            first = finite.index(False)
            step = self._position - len(losses) + first + 1
            where = f"made the loss {float(losses[first])} in step {step} of epoch {self.epoch + 1}"
            remedy = "lower it, or training.gradient_clip"
            raise Diverged("optimizer.lr", self._cfg.optimizer.get("lr"), where, remedy)

    def _mean_loss(self) -> float:
        """Return the mean loss over the rows that this epoch trained on."""
        return self.context.sum(float(self._totals[0])) / self._rows(self._position)

    def _rows(self, batches: int) -> int:
        """Return how many rows an epoch's first batches have."""
        return min(batches * self._cfg.training.batch_size, self._train.rows)

    @torch.no_grad()
    def validate(self, part: Batches) -> dict[str, float]:
        """Return the metrics over a whole part, each worker having computed its rows."""
        predictor, context = self._predictor, self.context
        network = predictor.network.eval()
        with autocast(self._cfg.training, context):
            outputs = torch.cat([network(*share.inputs).float() for share in part.shares()])
        outputs = context.gather(outputs, part.rows)
        loss = float(predictor.loss_sum(outputs, part.target)) / part.rows
        answers, target = predictor.answer(outputs).cpu(), part.target.cpu()
        return {"val_loss": loss, **validation_metrics(predictor.task, answers, target)}

    @property
    def epoch(self) -> int:
        """Return how many epochs are over."""
        return len(self._history)

    @property
    def position(self) -> tuple[int, int]:
        """Return (epochs that are over, steps of the next that are)."""
        return self.epoch, self._position

    @property
    def samples(self) -> int:
        """Return how many rows were trained on."""
        return self.epoch * self._rows(self._steps_per_epoch) + self._rows(self._position)

    @property
    def steps_taken(self) -> int:
        """Return how many batches were trained on."""
        return self.epoch * self._steps_per_epoch + self._position

    @property
    def history(self) -> Sequence[dict[str, float]]:
        """Return every epoch's metrics in order."""
        return self._history

    def latency_ms(self) -> float:
        """Return the median milliseconds that the network takes for one row here."""
        network, took = self._predictor.network.eval(), []
        with torch.no_grad():
            for _ in range(LATENCY_RUNS):
                started = time.perf_counter()
                network(*self._train.one).cpu()
                took.append((time.perf_counter() - started) * 1000)
        return statistics.median(took)

    def parameters(self) -> int:
        """Return how many weights are trained."""
        return sum(weights.numel() for weights in self.update.parameters)

    def outcome(self) -> Outcome:
        """Return what is kept so far, whole on every worker."""
        state = {name: self.context.whole(weights).cpu() for name, weights in self._kept.state.items()}
        kept = self._kept
        return Outcome(state, kept.metrics, kept.epoch, tuple(self._history), self.update.micro_batch)

    def state(self) -> LoopState:
        """Return the training as it stands, between two epochs or two steps; raises Diverged rather than a lost one."""
        self._look()
        tensors, groups = optimizer_state(self._optimizer)
        streams = random_state() if self._inside else self._random
        of_ranks = {name: self.context.stack(own) for name, own in {**streams, "totals": self._totals}.items()}
        return LoopState(
            {
                **prefixed("network", self._predictor.state_dict()),
                **prefixed("optimizer", tensors),
                **prefixed("average", {str(i): weights for i, weights in enumerate(self._average.weights)}),
                **prefixed("kept", self._kept.state),
                **prefixed("ranks", of_ranks),
            },
            {
                "world_size": self.context.world_size,
                "position": self._position,
                "lr": self._lr,
                "optimizer": groups,
                "lr_schedule": self._lr_schedule.state_dict(),
                "scaler": self.update.scaler.state_dict(),
                "averaged": self._average.updates,
                "micro_batch": self.update.micro_batch,
                "history": self._history,
                "kept": {"epoch": self._kept.epoch, "metrics": self._kept.metrics},
                "last": self._last,
            },
        )

    def load_state(self, state: LoopState) -> None:
        """Go on from what `state` returned, with the optimizer settings of this loop's own config.

        They are the same for a training taken up again; in population based training they were perturbed.
        """
        plain, parts = state.plain, nested(state.tensors)
        self._predictor.load_state_dict(parts["network"])
        load_optimizer_state(self._optimizer, parts.get("optimizer", {}), plain["optimizer"])
        with torch.no_grad():
            for i, weights in enumerate(self._average.weights):
                weights.copy_(parts["average"][str(i)])
        self._average.updates = plain["averaged"]
        self._lr_schedule.load_state_dict(plain["lr_schedule"])
        self.update.scaler.load_state_dict(plain["scaler"])
        self.update.micro_batch = plain["micro_batch"]
        self._lr_schedule.rebase(self._cfg.optimizer)
        self._take_streams(parts["ranks"], plain["world_size"])
        self._position, self._lr, self._last = plain["position"], plain["lr"], plain["last"]
        self._history = list(plain["history"])
        self._kept.epoch, self._kept.metrics = plain["kept"]["epoch"], plain["kept"]["metrics"]
        self._kept.state = parts.get("kept", {})

    def _take_streams(self, ranks: Mapping[str, Tensor], world_size: int) -> None:
        """Take this rank's random stream and sums; from another number of workers a fresh one, the first the sums."""
        rank, totals = self.context.rank, ranks["totals"]
        if world_size == self.context.world_size:
            self._random = {name: own[rank].cpu().clone() for name, own in ranks.items() if name != "totals"}
            self._totals = totals[rank].to(self.context.device)
            return
        torch.manual_seed((self._cfg.seed * 1_000_003 + rank) * 1_000_003 + self.epoch + 1)
        self._random = random_state()
        loss = float(totals[:, 0].sum()) if rank == 0 else 0.0
        self._totals = torch.tensor([loss, float(totals[0, 1])], dtype=torch.float64, device=self.context.device)

    def _weights(self) -> State:
        """Return a copy of the predictor's weights: on the CPU, sharded ones where they are."""
        own = {name: weights.detach() for name, weights in self._predictor.state_dict().items()}
        return {name: weights.clone() if sharded(weights) else weights.cpu().clone() for name, weights in own.items()}

    def _zeros(self) -> Tensor:
        return torch.zeros(2, dtype=torch.float64, device=self.context.device)


def _set_process(cfg: TrainConfig) -> None:
    """Set what PyTorch keeps for a whole process."""
    torch.set_num_threads(cfg.training.num_threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs a fifth of the time
    torch.set_float32_matmul_precision("high" if cfg.training.precision == "tf32" else "highest")
