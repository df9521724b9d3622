"""A Ray Tune searcher over Optuna's ask and tell: a trial stopped by the scheduler is told as pruned."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler, GPSampler, GridSampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.trial import FixedTrial, TrialState
from ray.tune.search import Searcher

from jobs.training.epoch import EPOCH, LAST, OBJECTIVE
from jobs.training.metrics import worst
from jobs.tuning.journal import ENDED, JournaledStudy
from jobs.tuning.objectives import METRICS, Objectives
from jobs.tuning.space import Space, parsed
from jobs.tuning.trial import CURVE, DIVERGED, FAILED, SAID, Asked

OVERRIDES, ERROR = "overrides", "error"  # user attributes of a trial
LARGE = 2**31 - 1
RETRIES = 2  # of a trial whose process died; what goes wrong inside a trial is reported, not retried


@dataclass(frozen=True)
class Form:
    """What all trials of a search have in common: see `Asked`."""

    replicates: tuple[tuple[str, ...], ...]
    rungs: tuple[int, ...] = ()
    every: bool = False


@dataclass(frozen=True)
class Sampled:
    """A trial's number in its study, and its own overrides."""

    number: int
    overrides: tuple[str, ...]


class OptunaSearcher(Searcher):
    """Suggests configs from a study and tells it how each trial ended.

    A trial that reported LAST finished by itself and is told COMPLETE with its objective; one stopped before is told
    PRUNED with its intermediate values (Ray's own searcher tells it complete, which misleads TPE); one that went
    wrong, FAIL. Trials that an interruption left running in the study are suggested first, as they were. The study is
    all that a later process needs: the random streams of each suggestion come from the seed and the trial's number.
    """

    def __init__(self, study: JournaledStudy, space: Space, objectives: Objectives, form: Form, total: int, seed: int):
        super().__init__(metric=OBJECTIVE, mode=objectives.mode)
        self._study, self._space, self._objectives, self._form = study, space, objectives, form
        self._total, self._seed = total, seed
        self._reported: dict[str, set[int]] = {}  # of each trial that runs: the epochs that the study knows
        own = study.own_trials()
        self._handed = sum(trial.state in ENDED for trial in own)
        self._waiting = deque(trial.number for trial in own if trial.state == TrialState.RUNNING)
        self._lost: Counter[int] = Counter()
        self._streams = list(_streams(study.sampler))
        if isinstance(study.sampler, GridSampler):
            drop_equal_cells(study.sampler, space)
        self._ahead: Future[Sampled | None] | None = None
        self._thread = ThreadPoolExecutor(1)
        self.asked: dict[str, Sampled] = {}  # by Ray's id of the trial
        self.begun: set[str] = set()  # those of them whose process runs: Ray starts them again by itself
        self.failure: OSError | None = None  # what keeps the study from being written: the search ends
        self.leaving = False  # the search is interrupted: trials are left as they are

    def __getstate__(self) -> dict[str, object]:
        """Keep nothing: Ray Tune copies its searcher to disk, and a resumed search makes its own from the study."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next config: an interrupted trial's, else what was asked for ahead, else ask now."""
        sampled = None if self._handed >= self._total or self.leaving or self.failure else self._next()
        if sampled is None:  # while trials are on their way, one may yet have to be handed out again
            return None if self._reported and not self.leaving and not self.failure else str(Searcher.FINISHED)
        self._handed += 1
        self.asked[trial_id] = sampled
        self._reported[trial_id] = set(self._study.frozen(sampled.number).intermediate_values)
        if self._handed < self._total:
            self._ahead = self._thread.submit(self._interrupted_or_new)
        return self._asked(sampled).to_dict()

    def _next(self) -> Sampled | None:
        ahead, self._ahead = self._ahead, None
        try:
            return ahead.result() if ahead else self._interrupted_or_new()
        except OSError as error:
            self.failure = error
            return None

    def _interrupted_or_new(self) -> Sampled | None:
        number = self._waiting.popleft() if self._waiting else None
        if number is not None and OVERRIDES in (attributes := self._study.frozen(number).user_attrs):
            return Sampled(number, tuple(attributes[OVERRIDES]))
        if number is None and self._spent():
            return None
        self._reseed(self._study.count() if number is None else number)
        trial = self._study.ask() if number is None else self._study.trial(number)
        overrides = self._space.sample(trial)
        self._study.note(trial.number, OVERRIDES, list(overrides))
        return Sampled(trial.number, overrides)

    def _spent(self) -> bool:
        """Tell whether all there is has been asked for (Optuna's grid gives out a running cell again)."""
        sampler = self._study.sampler
        whole = isinstance(sampler, GridSampler) and len(self._study.own_trials()) >= sampler._n_min_trials
        return whole or self._study.exhausted

    def _reseed(self, number: int) -> None:
        for place, stream in enumerate(self._streams):
            stream.rng.seed((self._seed * 1_000_003 + number * 101 + place) % LARGE)
        if isinstance(self._study.sampler, GPSampler):  # where the last fit begins the next: not in the study
            self._study.sampler._gprs_cache_list = self._study.sampler._constraints_gprs_cache_list = None

    def _asked(self, sampled: Sampled) -> Asked:
        said = dict(override.split("=", 1) for override in sampled.overrides)
        chosen = self._space.chosen(said)
        groups = {override.partition("=")[0] for override in chosen}
        values = {key: parsed(key, value) for key, value in said.items() if key not in groups}
        seeds = [dict(override.split("=", 1) for override in of_one) for of_one in self._form.replicates]
        replicates = tuple({key: parsed(key, value) for key, value in own.items()} for own in seeds)
        form, read, base = self._form, self._objectives.read, self._space.base(chosen)
        lost = worst(self._objectives.mode)
        return Asked(sampled.number, base, values, replicates, form.rungs, form.every, read, sampled.overrides, lost)

    def on_trial_result(self, trial_id: str, result: dict[str, float]) -> None:
        """Give the study the intermediate values of a trial that goes on."""
        self._write(self._report, trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, float] | None = None, error: bool = False) -> None:
        """Tell the study how a trial ended; one that an interruption ended stays as it is, to go on with later."""
        if trial_id in self._reported and not self.leaving and not (error and self._hand_again(trial_id)):
            self._write(self._tell, trial_id, {} if error else result or {})

    def _hand_again(self, trial_id: str) -> bool:
        """Hand a trial out once more whose process died before it ran (Ray calls that an error at once)."""
        number = self.asked[trial_id].number
        self._lost[number] += 1
        if trial_id in self.begun or self._lost[number] > RETRIES:
            return False
        del self._reported[trial_id], self.asked[trial_id]
        self._waiting.append(number)
        self._handed -= 1
        return True

    def _write(self, write: Callable[[str, Mapping[str, Any]], None], trial_id: str, result: Mapping[str, Any]) -> None:
        try:
            write(trial_id, result)
        except OSError as error:
            self.failure = error

    def _report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        said, before = tuple(result.get(SAID, ())), self.asked[trial_id]
        if said and said != before.overrides:
            self.asked[trial_id] = replace(before, overrides=said)
            self._study.note(before.number, OVERRIDES, list(said))
        for report in () if self._objectives.several else result.get(CURVE, [result]):
            if OBJECTIVE in report and report[EPOCH] not in self._reported[trial_id]:
                self._reported[trial_id].add(report[EPOCH])
                self._study.report(self.asked[trial_id].number, float(report[OBJECTIVE]), int(report[EPOCH]))

    def _tell(self, trial_id: str, result: Mapping[str, Any]) -> None:
        number, study = self.asked[trial_id].number, self._study
        why = result.get(FAILED) or result.get(DIVERGED) or ("" if OBJECTIVE in result else "its process died")
        if why:
            study.note(number, ERROR, str(why))
        if OBJECTIVE not in result or FAILED in result:
            study.tell(number, state=TrialState.FAIL)
        else:
            self._report(trial_id, result)
            if self._objectives.read:
                study.note(number, METRICS, {name: result[name] for name in self._objectives.read if name in result})
            if result.get(LAST):
                study.tell(number, self._objectives.values(result))
            else:
                study.tell(number, state=TrialState.PRUNED)
        del self._reported[trial_id]

    def close(self) -> None:
        """Wait for what is asked for ahead."""
        self._thread.shutdown(wait=True)

    def save(self, checkpoint_path: str) -> None:
        """Write which trial is which; the study keeps the rest itself."""
        running = {trial_id: self.asked[trial_id].number for trial_id in self._reported}
        Path(checkpoint_path).write_text(json.dumps(running))

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote."""
        for trial_id, number in json.loads(Path(checkpoint_path).read_text()).items():
            frozen = self._study.frozen(number)
            self.asked[trial_id] = Sampled(number, tuple(frozen.user_attrs[OVERRIDES]))
            self._reported[trial_id] = set(frozen.intermediate_values)


def _streams(sampler: BaseSampler) -> Iterator[LazyRandomState]:
    """Yield the random streams of a sampler and of the samplers inside it (Optuna has no public way to them)."""
    for value in vars(sampler).values():
        if isinstance(value, LazyRandomState):
            yield value
        elif isinstance(value, BaseSampler):
            yield from _streams(value)


def drop_equal_cells(grid: GridSampler, space: Space) -> None:
    """Keep one of the cells that differ only in keys which do not exist under their choices."""
    first: dict[tuple[str, ...], tuple[Any, ...]] = {}
    for cell in grid._all_grids:
        first.setdefault(space.sample(FixedTrial(dict(zip(grid._param_names, cell, strict=True)))), cell)
    grid._all_grids[:] = first.values()
    grid._n_min_trials = len(first)
