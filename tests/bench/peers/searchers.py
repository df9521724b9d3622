"""Searchers against each other: python -m tests.bench.peers.searchers PROBLEM SEEDS EPOCHS_TO_SPEND.

Ours (tpe), Ray's OptunaSearch and random draws, each asked by an event queue of two slots where an epoch is one unit of
time, as `jobs.tuning.schedule` replays schedules: no Ray runs, the outcome depends on the seed alone, and searchers are
all that differs. Each has Ray's own ASHA, and each is asked one trial ahead, as Ray Tune (and our searcher) does.
Prints one JSON line for each searcher: of each seed the best objective after a quarter, half and all of the epochs.
"""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from conf.compose import compose
from conf.schema import TrainConfig
from jobs.training.epoch import EPOCH, OBJECTIVE, Epoch
from jobs.tuning.components import make_sampler
from jobs.tuning.grammar import Dimension, parse_space
from jobs.tuning.journal import open_study
from jobs.tuning.objectives import Objectives
from jobs.tuning.schedule import CONTROLLER
from jobs.tuning.searcher import Form, OptunaSearcher
from jobs.tuning.space import Space, parsed, with_values
from jobs.tuning.trial import Asked
from tests.bench.peers.problem import GRACE, REDUCTION, SLOTS
from tests.bench.peers.surfaces import EPOCHS, PROBLEMS, Problem

MANY = 100_000  # trials: the epochs end a search


class Asker(Protocol):
    """A searcher that gives whole configs."""

    def ask(self, trial_id: str) -> TrainConfig:
        """Return the next config."""

    def tell(self, trial_id: str, result: Mapping[str, Any], ended: bool) -> None:
        """Take a report."""


class Ours:
    """The searcher of jobs.tune with one of conf/searcher."""

    def __init__(self, problem: Problem, space: Space, searcher: str, seed: int, folder: Path) -> None:
        cfg = compose("tune", [*problem.fixed, f"searcher={searcher}", f"seed={seed}"], TrainConfig)
        goals = Objectives({"objective": problem.mode})
        study = open_study(
            folder / f"{searcher}-{seed}.journal", [problem.mode], make_sampler(cfg, space.dimensions, goals)
        )
        self._searcher = OptunaSearcher(study, space, goals, Form(((),)), MANY, seed)

    def ask(self, trial_id: str) -> TrainConfig:
        """Return the next config; the one after it has been asked for as well, before any report is told."""
        said = self._searcher.suggest(trial_id)
        assert self._searcher._ahead is not None, "it asks ahead"
        self._searcher._ahead.result()
        return Asked.from_dict(said).configs()[0]

    def tell(self, trial_id: str, result: Mapping[str, Any], ended: bool) -> None:
        """Take a report."""
        (self._searcher.on_trial_complete if ended else self._searcher.on_trial_result)(trial_id, dict(result))


class Rays:
    """Ray's own searcher, which Ray Tune asks for one trial more than there is room for."""

    def __init__(self, problem: Problem, space: Space, seed: int) -> None:
        distributions = {key: distribution(of) for key, of in space.dimensions.items()}
        self._searcher = OptunaSearch(space=distributions, metric=OBJECTIVE, mode=problem.mode, seed=seed)
        self._base, self._ids = space.base(()), map(str, itertools.count())
        self._renamed: dict[str, str] = {}
        self._ahead = self._next()

    def _next(self) -> tuple[str, dict[str, Any]]:
        own = next(self._ids)
        self._searcher.suggest(own)
        return own, self._searcher._ot_trials[own].params  # suggest() nests dotted keys

    def ask(self, trial_id: str) -> TrainConfig:
        """Return the config that was asked for before, and ask for the next."""
        self._renamed[trial_id], said = self._ahead
        self._ahead = self._next()
        values = {key: parsed(key, value) if isinstance(value, str) else value for key, value in said.items()}
        return with_values(self._base, values)

    def tell(self, trial_id: str, result: Mapping[str, Any], ended: bool) -> None:
        """Take a report."""
        own = self._renamed[trial_id]
        (self._searcher.on_trial_complete if ended else self._searcher.on_trial_result)(own, dict(result))


def distribution(of: Dimension) -> BaseDistribution:
    """Return Optuna's distribution of a dimension, as `Space` suggests it."""
    if of.choices:
        return CategoricalDistribution(of.choices)
    if of.whole:
        return IntDistribution(int(of.low), int(of.high), step=int(of.step or 1), log=of.log)
    return FloatDistribution(of.low, of.high, step=of.step, log=of.log)


def search(problem: Problem, asker: Asker, spend: int) -> list[float]:
    """Spend so many epochs; return the best objective after each."""
    scheduler: Any = ASHAScheduler(time_attr=EPOCH, max_t=EPOCHS, grace_period=GRACE, reduction_factor=REDUCTION)
    scheduler.set_search_properties(OBJECTIVE, problem.mode)
    better = min if problem.mode == "min" else max
    queue: list[tuple[int, int, Any, Iterator[Epoch]]] = []  # time, number (unique), trial, epochs
    best: list[float] = []
    numbers = itertools.count()

    def start(now: int) -> None:
        number = next(numbers)
        trial, epochs = SimpleNamespace(trial_id=str(number)), problem.epochs(asker.ask(str(number)))
        scheduler.on_trial_add(CONTROLLER, trial)
        heapq.heappush(queue, (now + 1, number, trial, epochs))

    for _ in range(SLOTS):
        start(0)
    while len(best) < spend:
        now, number, trial, epochs = heapq.heappop(queue)
        epoch = next(epochs)
        result = {**epoch.report(), "training_iteration": epoch.number}
        best.append(better(best[-1], epoch.objective) if best else epoch.objective)
        goes_on = not epoch.last and scheduler.on_trial_result(CONTROLLER, trial, result) == TrialScheduler.CONTINUE
        asker.tell(trial.trial_id, result, ended=not goes_on)
        if goes_on:
            heapq.heappush(queue, (now + 1, number, trial, epochs))
            continue
        scheduler.on_trial_complete(CONTROLLER, trial, result)
        start(now)
    return best


def main(name: str, seeds: int, spend: int) -> None:
    """Search with each searcher from each seed."""
    problem = PROBLEMS[name]()
    space = Space("train", problem.fixed, parse_space(problem.space))
    found: dict[str, list[list[float]]] = {"ours": [], "ray": [], "random": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            askers: dict[str, Asker] = {
                "ours": Ours(problem, space, "tpe", seed, Path(folder)),
                "ray": Rays(problem, space, seed),
                "random": Ours(problem, space, "random", seed, Path(folder)),
            }
            for searcher, asker in askers.items():
                best = search(problem, asker, spend)
                found[searcher].append([best[spend // 4 - 1], best[spend // 2 - 1], best[-1]])
    for searcher, values in found.items():
        print(json.dumps({"searcher": searcher, "mode": problem.mode, "best": np.array(values).T.tolist()}))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
