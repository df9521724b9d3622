"""Plain Optuna: python -m tests.bench.peers.optuna_processes TRIALS EPOCHS {none|SECONDS} FOLDER.

Two processes on one journal, TPE and successive halving as Optuna has them, no cluster, no MLflow.
Trains epochs of our own loop (problem.py). Prints one JSON line.
"""

from __future__ import annotations

import subprocess
import sys

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from tests.bench.peers.problem import DECAY, GRACE, LR, REDUCTION, SLOTS, WIDTHS, as_json, loop, seconds_of

TRIALS, EPOCHS, SECONDS, FOLDER = int(sys.argv[1]), int(sys.argv[2]), seconds_of(sys.argv[3]), sys.argv[4]
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def study(seed: int) -> optuna.Study:
    """Open the study, or make it."""
    return optuna.create_study(
        study_name="peer",
        storage=JournalStorage(JournalFileBackend(f"{FOLDER}/peer.journal")),
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=GRACE, reduction_factor=REDUCTION),
        direction="minimize",
        load_if_exists=True,
    )


def objective(trial: optuna.Trial) -> float:
    """Train a trial, reporting each epoch."""
    lr, decay = trial.suggest_float("lr", *LR, log=True), trial.suggest_float("weight_decay", *DECAY, log=True)
    value = float("inf")
    for epoch in loop(EPOCHS, SECONDS, lr, decay, trial.suggest_categorical("width", WIDTHS)):
        value = epoch.objective
        trial.report(value, epoch.number)
        if not epoch.last and trial.should_prune():
            raise optuna.TrialPruned
    return value


def optimize(seed: int) -> None:
    """Be one of the processes."""
    study(seed).optimize(objective, callbacks=[MaxTrialsCallback(TRIALS, states=COUNTED)])


def main() -> None:
    """Be the first process beside the others, and print what all did."""
    others = [subprocess.Popen([sys.executable, "-m", __spec__.name, *sys.argv[1:], str(i)]) for i in range(1, SLOTS)]
    optimize(0)
    assert all(other.wait() == 0 for other in others), "a process failed"
    trials = study(0).trials
    print(as_json(trials, sum(len(trial.intermediate_values) for trial in trials)))


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if len(sys.argv) == 6:
        optimize(int(sys.argv[5]))
    else:
        main()
