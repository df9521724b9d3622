"""What a model was not trained on: numbers out of range and unseen categories. They are answered, with a word."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cluster.columns import Array, ModelSchema, Raw

MOST = 10  # said of one request

Doubt = dict[str, object]


@dataclass(frozen=True)
class Doubts:
    """Of one request: the first few cells that the train part had nothing like, and how many there are of each kind."""

    said: list[Doubt]
    out_of_range: int = 0
    unseen: int = 0


NONE = Doubts([])


class Trained:
    """The ranges and vocabularies that the train part had, ready to be compared with."""

    def __init__(self, schema: ModelSchema) -> None:
        ranged = [c for c in schema.columns if c.type == "number" and c.minimum is not None and c.maximum is not None]
        self._numbers = [column.name for column in ranged]
        self._low = _float32([float(column.minimum or 0.0) for column in ranged])
        self._high = _float32([float(column.maximum or 0.0) for column in ranged])
        self._categories = {c.name: frozenset(c.categories) for c in schema.columns if c.type == "category"}

    def doubts(self, raw: Raw) -> Doubts:
        """Return the cells that the train part had nothing like; of the first few row, column, and what is odd."""
        (odd, out_of_range), (strange, unseen) = self._out_of_range(raw), self._unseen(raw)
        return Doubts([*odd, *strange][:MOST], out_of_range, unseen)

    def _out_of_range(self, raw: Raw) -> tuple[list[Doubt], int]:
        if not self._numbers:
            return [], 0
        values = np.concatenate([raw[name] for name in self._numbers], axis=1)
        odd = (values < self._low) | (values > self._high)  # NaN, a missing value, is neither
        if not odd.any():
            return [], 0
        said = [
            _doubt(
                row,
                self._numbers[i],
                f"{values[row, i]:g} is outside the trained range [{self._low[i]:g}, {self._high[i]:g}]",
            )
            for row, i in np.argwhere(odd)[:MOST]
        ]
        return said, int(np.count_nonzero(odd))

    def _unseen(self, raw: Raw) -> tuple[list[Doubt], int]:
        found, count = list[Doubt](), 0
        for name, categories in self._categories.items():
            for row, value in enumerate(raw[name][:, 0].tolist()):
                if value not in categories:
                    count += 1
                    if count <= MOST:
                        found.append(_doubt(row, name, f"{value!r} was not seen in training"))
        return found, count


def _doubt(row: int, column: str, message: str) -> Doubt:
    return {"row": int(row), "column": column, "message": message}


def _float32(values: list[float]) -> Array:
    return np.array(values, dtype=np.float64).astype(np.float32)
