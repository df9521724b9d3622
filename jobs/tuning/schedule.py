"""What a schedule would do with learning curves: Ray's own scheduler, asked epoch by epoch, without Ray running."""

from __future__ import annotations

import heapq
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from ray.tune import schedulers as rays

from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.training.epoch import EPOCH, OBJECTIVE, SAMPLES
from jobs.training.scaling import on_workers
from jobs.tuning.journal import WARM

CONTROLLER = SimpleNamespace(get_live_trials=lambda: ())  # where median looks for waiting trials: none is made early
MOST_COMPARED = 128  # trials that a preview gives to the median rule, whose work grows with their square
STOPPING = (rays.AsyncHyperBandScheduler, rays.MedianStoppingRule)
DOES = {  # what others do to trials, by class
    rays.HyperBandScheduler: "pauses trials until the others of their bracket are as far",
    rays.PopulationBasedTraining: "goes on from other trials' weights with perturbed settings",
    rays.TrialScheduler: "pauses trials, or may do more than stop them",
}
Make = Callable[[], rays.TrialScheduler]


@dataclass(frozen=True)
class Curve:
    """A trial's objective after epoch 1, 2, ...; not finished: it was stopped there, and nothing is known beyond."""

    number: int
    values: tuple[float, ...]
    finished: bool


@dataclass(frozen=True)
class Simulated:
    """What a schedule did. unknown: trials that it lets go on where their curve ends; epochs: of these, as recorded."""

    stopped: dict[int, int]  # trial -> epoch
    unknown: tuple[int, ...]
    epochs: int
    rungs: tuple[int, ...]  # see rungs_of


class _Trial:
    """What schedulers read of a trial (a key of their dicts, too)."""

    def __init__(self, curve: Curve) -> None:
        self.curve, self.trial_id = curve, str(curve.number)


def slots_here(cfg: TrainConfig) -> int:
    """Return how many trials a search runs at once on a Ray of this machine's CPUs alone."""
    scaling, each = cfg.scaling, cfg.tuning.cpus_per_trial
    if on_workers(scaling):
        each = scaling.cpus_per_worker * scaling.num_workers
    room = max(1, int((cfg.cluster.num_cpus or os.cpu_count() or 1) // each))
    return min(cfg.tuning.max_concurrent or room, room)


def rungs_of(scheduler: rays.TrialScheduler, rows: int) -> tuple[int, ...]:
    """Return the epochs after which ASHA may stop a trial, max_t the last; none where a scheduler has no rungs.

    rows: of the train part. Raises BadInput where the schedule's time is neither epochs nor samples.
    """
    time = getattr(scheduler, "_time_attr", EPOCH)
    if time not in (EPOCH, SAMPLES):
        raise BadInput("scheduler.time_attr", time, "is not known of a learning curve", f"say {EPOCH} or {SAMPLES}")
    if not isinstance(scheduler, rays.AsyncHyperBandScheduler):
        return ()
    unit, ends_all = rows if time == SAMPLES else 1, scheduler._stop_last_trials
    end = -int(-scheduler._max_t // unit)
    found = {end} if ends_all else set()
    for bracket in scheduler._brackets:
        left, epoch = sorted(milestone for milestone, _ in bracket._rungs), 0
        while left:
            epoch = max(epoch + 1, -int(-left[0] // unit))
            reached = sum(milestone <= epoch * unit for milestone in left)
            del left[reached - 1 if ends_all else 0 : reached]  # a report meets one rung; Ray may return to those below
            found.add(epoch)
    return tuple(sorted(epoch for epoch in found if epoch <= end))


def simulate(scheduler: rays.TrialScheduler, curves: Sequence[Curve], slots: int, rows: int, mode: str) -> Simulated:
    """Return what a new scheduler does with the curves, `slots` at once in their order, each epoch one unit of time.

    Raises BadInput for one that does more than stop trials. As in Ray Tune, it does not judge a trial that finishes.
    """
    if not isinstance(scheduler, STOPPING) and type(scheduler) is not rays.FIFOScheduler:
        raise _refused(scheduler)
    rungs = rungs_of(scheduler, rows)
    scheduler.set_search_properties(OBJECTIVE, mode)
    waiting = iter([_Trial(curve) for curve in curves if curve.values])
    queue: list[tuple[int, int, int, _Trial]] = []  # time, number, epoch
    stopped, unknown, epochs = dict[int, int](), list[int](), 0
    asked: Any = scheduler  # Ray's types want whole trials

    def start(now: int) -> None:
        if trial := next(waiting, None):
            asked.on_trial_add(CONTROLLER, trial)
            heapq.heappush(queue, (now + 1, trial.curve.number, 1, trial))

    with _apart():
        for _ in range(slots):
            start(0)
        while queue:
            now, number, epoch, trial = heapq.heappop(queue)
            epochs += 1
            result = {EPOCH: epoch, SAMPLES: epoch * rows, OBJECTIVE: trial.curve.values[epoch - 1]}
            last = epoch == len(trial.curve.values)
            finished = last and trial.curve.finished
            action = rays.TrialScheduler.STOP if finished else asked.on_trial_result(CONTROLLER, trial, result)
            if action not in (rays.TrialScheduler.STOP, rays.TrialScheduler.CONTINUE):
                raise _refused(scheduler)
            if action == rays.TrialScheduler.CONTINUE and not last:
                heapq.heappush(queue, (now + 1, number, epoch + 1, trial))
                continue
            if action == rays.TrialScheduler.CONTINUE:
                unknown.append(number)
            else:
                asked.on_trial_complete(CONTROLLER, trial, result)
                stopped |= {} if finished else {number: epoch}
            start(now)
    return Simulated(stopped, tuple(sorted(unknown)), epochs, rungs)


def _refused(scheduler: rays.TrialScheduler) -> BadInput:
    does = next(said for kind, said in DOES.items() if isinstance(scheduler, kind))
    return BadInput("scheduler", type(scheduler).__name__, does, "replay asha, median or none")


@contextmanager
def _apart() -> Iterator[None]:
    """Keep from the process what ASHA does to it: it draws brackets from numpy's global stream, and infinities warn."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            yield
    finally:
        np.random.set_state(state)


def expected_epochs(
    make_scheduler: Make, trials: int, epochs: int, slots: int, rows: int, mode: str, seed: int = 0, repeats: int = 5
) -> float:
    """Return the mean epochs of searches with random curves (one that learns keeps more), or all where none can be."""
    total = 0.0
    for repeat in range(repeats):
        scheduler, rng = make_scheduler(), np.random.default_rng([seed, repeat])
        count = min(trials, MOST_COMPARED) if isinstance(scheduler, rays.MedianStoppingRule) else trials
        try:
            total += simulate(scheduler, _invented(count, epochs, mode, rng), slots, rows, mode).epochs / count
        except BadInput:
            return float(trials * epochs)
    return total / repeats * trials


def _invented(trials: int, epochs: int, mode: str, rng: np.random.Generator) -> list[Curve]:
    """Return curves of the best so far: each rises to its own level at its own pace, with noise; some cross."""
    level, noise = rng.normal(size=(trials, 1)), rng.normal(scale=0.2, size=(trials, epochs))
    pace = epochs * rng.uniform(0.05, 0.4, size=(trials, 1))
    best = np.maximum.accumulate(level - 2 * np.exp(-np.arange(1, epochs + 1) / pace) + noise, axis=1)
    objective = best if mode == "max" else -best
    return [Curve(number, tuple(values), finished=True) for number, values in enumerate(objective.tolist())]


def replayed(curves: Sequence[Curve], simulated: Simulated, winner: int, mode: str) -> list[str]:
    """Return lines that say whether the schedule keeps the winner (one of the curves), at what cost, what is open."""
    ends = {curve.number: curve.values[-1] for curve in curves if curve.values}
    stopped, unknown, won = simulated.stopped, simulated.unknown, f"the winner, trial {winner} with {ends[winner]:.5g}"
    lines = [f"keeps {won}"]
    if winner in stopped:
        left = {curve.number: ends[curve.number] for curve in curves if curve.finished and curve.number not in stopped}
        lines = [f"stops {won}, after epoch {stopped[winner]}", _instead(left, ends[winner], mode)]
    recorded, least = sum(len(curve.values) for curve in curves), "at least " if unknown else ""
    lines.append(f"{least}{simulated.epochs} epochs against {recorded} recorded ({simulated.epochs / recorded:.0%})")
    if unknown:
        lines.append(
            f"{len(unknown)} of {len(curves)} curves end before this schedule decides: their rest is not known"
        )
    return lines


def _instead(left: dict[int, float], won: float, mode: str) -> str:
    if not left:
        return "no other trial is known to its end: what would have won is not known"
    best = (max if mode == "max" else min)(left, key=left.__getitem__)
    loss = won - left[best] if mode == "max" else left[best] - won
    return f"trial {best} would have won with {left[best]:.5g}, {abs(loss):.3g} {'worse' if loss >= 0 else 'better'}"


def curves_of(study: optuna.Study) -> list[Curve]:
    """Return the curves of a search's own complete and pruned trials, as they started; raises BadInput for none."""
    curves = [
        Curve(trial.number, tuple(value for _, value in steps), trial.state == TrialState.COMPLETE)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        if WARM not in trial.user_attrs and (steps := sorted(trial.intermediate_values.items()))
    ]
    if not curves:
        raise BadInput("replay", study.study_name, "has no learning curves", "name a search for one objective")
    return curves
