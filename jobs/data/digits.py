"""Handwritten digits of 8 x 8 pixels, inside scikit-learn."""

from __future__ import annotations

import pyarrow as pa
from sklearn.datasets import load_digits


def digits() -> pa.Table:
    """Return 1,797 rows: 64 pixels (0 to 16) and the digit."""
    pixels, digit = load_digits(return_X_y=True)
    columns = {f"pixel_{i}": pa.array(pixels[:, i].astype("int8")) for i in range(pixels.shape[1])}
    return pa.table({**columns, "digit": pa.array(digit)})
