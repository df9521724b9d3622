"""What a trial's actor runs: the one training loop, until a rung or for a moment, again and again.

PyTorch is imported by the actors alone: the command names this class before Ray has started.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.training.epoch import EPOCH, OBJECTIVE, SAMPLES, Epoch
from jobs.training.examples import TrainingData
from jobs.tuning.space import parsed, with_values, written_as

if TYPE_CHECKING:
    from jobs.tuning.replicates import Replicates

CURVE = "curve"  # of a report: every epoch's report since the last
FAILED = "failed"  # instead of metrics: the sentence of what went wrong
SAID = "said"  # of a report: the trial's own overrides as they are now (population based training changes them)
DIVERGED = "diverged"  # of a report: the sentence, where the objective is the worst value for it
STATE = "state.pt"


@dataclass(frozen=True)
class Asked:
    """What the searcher asks of a trial: `values` set in the config `base`, once for each replicate's own values.

    rungs: the epochs after which the scheduler decides; every: it may decide after each. read: metrics that objectives
    and constraints read, of the weights kept. overrides: what the values and the base's groups were said as.
    """

    number: int
    base: str
    values: dict[str, object]
    replicates: tuple[dict[str, object], ...] = ({},)
    rungs: tuple[int, ...] = ()
    every: bool = False
    read: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    worst: float = math.inf  # the objective of a trial that has none

    def failed(self, why: str) -> dict[str, Any]:
        """Return the report of a trial that went wrong; Ray's schedulers want a time and an objective in each."""
        nothing = {EPOCH: 0, SAMPLES: 0, OBJECTIVE: self.worst, CURVE: []}
        return {**nothing, FAILED: " ".join(why.split()), "done": True}

    def said(self) -> list[str]:
        """Return `overrides` with the values that are set now."""
        found = []
        for override in self.overrides:
            key, _, written = override.partition("=")
            same = key not in self.values or self.values[key] == parsed(key, written)
            found.append(override if same else f"{key}={written_as(self.values[key])}")
        return found

    def configs(self) -> list[TrainConfig]:
        """Return the config of each replicate."""
        return [with_values(self.base, {**self.values, **own}) for own in self.replicates]

    def to_dict(self) -> dict[str, Any]:
        """Return it as the config of a Ray Tune trial."""
        return asdict(self)

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> Asked:
        """Read what `to_dict` gave (Ray adds keys of its own)."""
        return cls(**{key: said[key] for key in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Shared:
    """What all trials of a search share: the data, in the object store, and the folder of their states."""

    data: ray.ObjectRef[TrainingData]
    checkpoints: str


class Trial(tune.Trainable):
    """A trial of Ray Tune, in an actor that is used again.

    Each step trains until the next rung, or for `tuning.report_every_s`. What goes wrong in a trial is reported, not
    raised, so that the actor lives on. Its state is written every `tuning.checkpoint_every_s`: a trial that is started
    anew under the same number goes on from there.
    """

    def setup(self, config: dict[str, Any], shared: Shared) -> None:  # type: ignore[override]  # Ray's with_parameters
        """Take what all trials share, and the first trial."""
        from jobs.tuning.replicates import Replicates  # with PyTorch: seconds that are of no trial

        self._make = Replicates
        self._data: TrainingData = ray.get(shared.data)
        self._checkpoints = Path(shared.checkpoints)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self._asked = Asked.from_dict(new_config)
        self._training: Replicates | None = None
        self._begun = self._written = time.monotonic()
        return True

    def step(self) -> dict[str, Any]:
        """Train until the next report and return it."""
        try:
            return self._step()
        except Exception as error:
            import torch

            if isinstance(error, torch.AcceleratorError):  # the device is of no use to this process any more
                raise
            return self._asked.failed(said_of(error))

    def _step(self) -> dict[str, Any]:
        from jobs.training.loop import Diverged

        training, curve = self._begin()
        started, tuning = time.monotonic(), self._tuning
        while True:
            try:
                epoch = next(training)
            except Diverged as why:
                return self._worst(curve, len(training.history) + 1, str(why))
            curve.append(epoch.report())
            now = time.monotonic()
            if epoch.last:
                break
            self._in_time(epoch, now)
            if now - self._written > tuning.checkpoint_every_s:
                self._write()
            decides = self._asked.every or epoch.number in self._asked.rungs
            if decides or now - started >= tuning.report_every_s:
                break
        own = {CURVE: curve, SAID: self._asked.said(), "done": epoch.last}
        return {**curve[-1], **training.kept(self._asked.read), **own}

    def _begin(self) -> tuple[Replicates, list[dict[str, float]]]:
        """Return the training, and the epochs that were trained before an interruption."""
        if self._training is not None:
            return self._training, []
        self._training = self._made(self._checkpoint)
        return self._training, list(self._training.history)

    def _made(self, state: Path) -> Replicates:
        """Return the training of this trial's own config, as it was written where there is a state."""
        configs = self._asked.configs()
        self._tuning = configs[0].tuning
        training = self._make(configs, self._data, self._asked.read)
        if state.exists():
            training.load(state)
        return training

    def _worst(self, curve: list[dict[str, float]], number: int, why: str) -> dict[str, Any]:
        """Return the report of a trial whose loss is no longer finite: it has finished with the worst value."""
        report = Epoch(number, number * self._data.train.rows, {}, self._asked.worst, last=True).report()
        return {**report, CURVE: [*curve, report], DIVERGED: why, "done": True}

    def _in_time(self, epoch: Epoch, now: float) -> None:
        limit = self._tuning.trial_timeout_s
        if limit is not None and now - self._begun > limit:
            bound = f"was over in epoch {epoch.number}"
            raise BadInput("tuning.trial_timeout_s", limit, bound, "allow more, or search for smaller models")

    @property
    def _checkpoint(self) -> Path:
        return self._checkpoints / f"{self._asked.number}.pt"

    def _write(self) -> None:
        assert self._training is not None, "written between two epochs"
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        half = self._checkpoint.with_suffix(".half")
        self._training.save(half)
        half.replace(self._checkpoint)
        self._written = time.monotonic()

    def cleanup(self) -> None:
        """Leave the state of a trial that is interrupted, for the search to go on with later."""
        if self._training is not None and self._training.history and not self._training.last:
            self._write()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the training where a scheduler that pauses or copies trials asks for it."""
        if self._training is not None:
            self._training.save(Path(checkpoint_dir) / STATE)

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]  # Ray passes the folder
        """Go on from what `save_checkpoint` wrote, with this trial's own config."""
        self._training = self._made(Path(checkpoint) / STATE)


def said_of(error: BaseException) -> str:
    """Return what a run says of an error."""
    return str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
