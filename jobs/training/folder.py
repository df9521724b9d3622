"""The folder of one run under the storage path: what its processes leave for each other, and for a run that goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.errors import BadInput
from jobs.training.outcome import Outcome

PREFIX, HALF = "step-", ".half"  # of a checkpoint, and of one that is being written
_WEIGHTS, _OUTCOME = "weights.safetensors", "outcome.json"


@dataclass(frozen=True)
class RunFolder:
    """checkpoints; records of epochs and starts as lines of JSON; the word to stop; the outcome, or what went wrong.

    Several processes write here, each file by one of them at a time.
    """

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Return where the run's checkpoints are."""
        return self.path / "checkpoints"

    def latest(self) -> Path | None:
        """Return the latest checkpoint that is whole."""
        found = whole(self.checkpoints)
        return found[-1] if found else None

    @property
    def records(self) -> Path:
        """Return the file of epochs and starts."""
        return self.path / "records.jsonl"

    @property
    def stop(self) -> Path:
        """Return the file whose being there asks all workers to save and end."""
        return self.path / "stop"

    def prepare(self) -> None:
        """Make the folder ready for a start: nobody has asked it to stop, nothing has gone wrong."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.stop.unlink(missing_ok=True)
        self._failure.unlink(missing_ok=True)

    def record(self, said: dict[str, Any]) -> None:
        """Add a record."""
        with self.records.open("a") as file:
            file.write(json.dumps(said) + "\n")

    def epochs(self) -> list[dict[str, float]]:
        """Return the recorded metrics of each epoch in order; of one that was trained again, the latest."""
        if not self.records.exists():
            return []
        said = (json.loads(line) for line in self.records.read_text().splitlines())
        by_number = {record["epoch"]: record["metrics"] for record in said if "metrics" in record}
        return [by_number[number] for number in sorted(by_number)]

    def write_failure(self, error: BadInput) -> None:
        """Leave what a person got wrong, so that no restart tries it again."""
        value = error.value if isinstance(error.value, int | float | str | None) else str(error.value)
        said = {"kind": type(error).__name__, "said": [error.key, value, error.bound, error.remedy]}
        _write(self._failure, json.dumps(said))

    def failure(self, kinds: tuple[type[BadInput], ...]) -> BadInput | None:
        """Return what was left by `write_failure`, as one of the kinds."""
        if not self._failure.exists():
            return None
        said = json.loads(self._failure.read_text())
        kind = next((kind for kind in kinds if kind.__name__ == said["kind"]), BadInput)
        return kind(*said["said"])

    def write_micro_batch(self, rows: int) -> None:
        """Leave how many rows fit the memory, for the next start."""
        _write(self._micro_batch, str(rows))

    def micro_batch(self) -> int | None:
        """Return how many rows fitted."""
        return int(self._micro_batch.read_text()) if self._micro_batch.exists() else None

    def write_outcome(self, outcome: Outcome) -> None:
        """Leave the outcome."""
        from safetensors.torch import save_file

        half = self.path / "outcome.half"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir()
        save_file({name: weights.contiguous() for name, weights in outcome.state.items()}, half / _WEIGHTS)
        kept = {
            "metrics": outcome.metrics,
            "kept_epoch": outcome.kept_epoch,
            "history": outcome.history,
            "micro_batch": outcome.micro_batch,
        }
        (half / _OUTCOME).write_text(json.dumps(kept))
        half.replace(self._outcome)

    def outcome(self) -> Outcome | None:
        """Return the outcome that a worker left."""
        from safetensors.torch import load_file

        if not self._outcome.exists():
            return None
        kept = json.loads((self._outcome / _OUTCOME).read_text())
        state = load_file(self._outcome / _WEIGHTS)
        return Outcome(state, kept["metrics"], kept["kept_epoch"], tuple(kept["history"]), kept["micro_batch"])

    def remove(self) -> None:
        """Remove the folder of a run that has ended well."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def _failure(self) -> Path:
        return self.path / "failure.json"

    @property
    def _micro_batch(self) -> Path:
        return self.path / "micro_batch"

    @property
    def _outcome(self) -> Path:
        return self.path / "outcome"


def whole(checkpoints: Path) -> list[Path]:
    """Return the checkpoints in a folder that are whole, the latest last."""
    found = checkpoints.glob(f"{PREFIX}*") if checkpoints.exists() else []
    return sorted(path for path in found if path.suffix != HALF)


def _write(path: Path, text: str) -> None:
    half = path.with_name(f"{path.name}.half")
    half.write_text(text)
    half.replace(path)
