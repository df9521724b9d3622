"""A search's study on disk: Optuna's journal, written by the driver alone."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from conf.errors import BadInput

DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}


class DriverJournal(BaseJournalBackend):
    """A journal file with one writer: each entry goes to the operating system at once, without lock or fsync.

    So a killed driver loses nothing, and an entry costs microseconds (Optuna's own file backend: milliseconds).
    The format is Optuna's: its tools read the file while it is written. A last line that a full disk or a kill cut
    off is dropped when the file is opened again.
    """

    def __init__(self, path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
            path.write_bytes(b"".join(lines))
        self._logs: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self._file = path.open("ab", buffering=0)

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the entries from a number on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write entries; raises OSError when the disk is full."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        size = self._file.tell()
        try:
            if self._file.write(lines) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        except OSError:
            with suppress(OSError):
                self._file.truncate(size)
            raise
        self._logs.extend(logs)

    def __del__(self) -> None:
        """Close the file."""
        self._file.close()


ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
WARM = "warm_start"  # user attribute of a trial that an earlier search made: that search's run


class JournaledStudy(optuna.Study):
    """The study of a search: its trials by number, at little cost."""

    exhausted = False

    def stop(self) -> None:
        """Note that there is nothing left to ask for (a sampler that enumerates says so)."""
        self.exhausted = True

    def count(self) -> int:
        """Return the number of trials, which is the next one's number."""
        return int(self._storage.get_n_trials(self._study_id))

    def own_trials(self) -> list[FrozenTrial]:
        """Return this search's trials, without those of a warm start."""
        return [trial for trial in self.get_trials(deepcopy=False) if WARM not in trial.user_attrs]

    def _id(self, number: int) -> int:
        return int(self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number))

    def frozen(self, number: int) -> FrozenTrial:
        """Return a trial as it stands."""
        return self._storage.get_trial(self._id(number))

    def trial(self, number: int) -> optuna.Trial:
        """Return a trial that an interruption left half asked for, to ask on."""
        return optuna.Trial(self, self._id(number))

    def report(self, number: int, value: float, step: int) -> None:
        """Give a trial an intermediate value."""
        self._storage.set_trial_intermediate_value(self._id(number), step, value)

    def note(self, number: int, key: str, value: object) -> None:
        """Set a trial's user attribute."""
        self._storage.set_trial_user_attr(self._id(number), key, value)


def journal_path(folder: Path, run_id: str) -> Path:
    """Return where the study of a search lies."""
    return folder / f"{run_id}.journal"


def open_study(path: Path, directions: Iterable[str], sampler: BaseSampler) -> JournaledStudy:
    """Open the study of a search, or begin it; directions: max or min of each objective."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(DriverJournal(path))
    name = path.stem
    if name not in {study.study_name for study in storage.get_all_studies()}:
        storage.create_new_study([DIRECTIONS[direction] for direction in directions], name)
    return JournaledStudy(name, storage, sampler)


def read_study(path: Path) -> optuna.Study:
    """Open a study only to read it; raises BadInput where there is none."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not path.exists():
        raise BadInput("run", path.stem, "has no study here", "name a search of this storage path")
    return optuna.load_study(study_name=path.stem, storage=JournalStorage(JournalFileBackend(str(path))))
