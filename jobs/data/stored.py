"""Encoded rows on disk, a file per array: any run of rows is read without the others."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.columns import Array

META = "rows.json"


@dataclass(frozen=True)
class Stored:
    """The rows of a part: numbers, codes, times and texts as `Encoded` has them, and the target.

    shapes: per array (dtype, shape of a row), in the order in which a predictor takes them, the target last.
    """

    folder: Path
    rows: int
    shapes: dict[str, tuple[str, tuple[int, ...]]]

    @classmethod
    def open(cls, folder: Path) -> Stored:
        """Return what `writing` left."""
        said = json.loads((folder / META).read_text())
        return cls(folder, said["rows"], {name: (kind, tuple(shape)) for name, (kind, shape) in said["shapes"].items()})

    @property
    def row_bytes(self) -> int:
        """Return what a row takes."""
        return sum(np.dtype(kind).itemsize * int(np.prod(shape)) for kind, shape in self.shapes.values())

    def read(self, runs: Sequence[tuple[int, int]]) -> list[Array]:
        """Return each array's rows of all runs (first row, how many); raises OSError where they are short.

        They are read, not mapped: pages of a map would count as this process's memory.
        """
        return [self._array(name, runs) for name in self.shapes]

    @property
    def target(self) -> Array:
        """Return the target of all rows."""
        return self.array("target")

    def array(self, name: str) -> Array:
        """Return one array whole."""
        return self._array(name, [(0, self.rows)])

    def _array(self, name: str, runs: Sequence[tuple[int, int]]) -> Array:
        kind, shape = self.shapes[name]
        array = np.empty((sum(rows for _, rows in runs), *shape), kind)
        one = array.itemsize * int(np.prod(shape))
        held, filled = array.reshape(-1).view(np.uint8).data, 0
        if not one:
            return array
        with (self.folder / name).open("rb", buffering=0) as file:
            for first, rows in runs:
                wanted = held[filled : filled + rows * one]
                while wanted:
                    got = os.preadv(file.fileno(), [wanted], first * one + rows * one - len(wanted))
                    if not got:
                        raise OSError(f"{file.name} is shorter than its {self.rows} rows")
                    wanted = wanted[got:]
                filled += rows * one
        return array


class Writer:
    """Appends rows to the files of a part."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        folder.mkdir(parents=True)
        self._stored = Stored(folder, 0, dict(shapes))
        self._files = {name: (folder / name).open("wb") for name in shapes}
        self.rows = 0

    def append(self, arrays: Mapping[str, Array]) -> None:
        """Write rows after those that are there; an array without a column may be left out."""
        for name, array in arrays.items():
            self._files[name].write(np.ascontiguousarray(array, self._stored.shapes[name][0]).reshape(-1).data)
        self.rows += len(arrays["target"])

    def close(self) -> None:
        """Write all to disk."""
        for file in self._files.values():
            file.close()
        said = {"rows": self.rows, "shapes": self._stored.shapes}
        (self._stored.folder / META).write_text(json.dumps(said))
