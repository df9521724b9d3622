"""Is the table sound? Each check raises BadInput in one sentence, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.columns import Array, ColumnSchema, Raw, category_text
from conf.errors import BadInput, nearest
from conf.schema import Checks, Dataset
from jobs.data.split import OPEN, Assignment
from jobs.data.target import Target

NOTABLE = 0.9  # a single column this good is worth a word
_GONE, _THERE = 0.5, 0.001  # share of missing values: without a target at least, with one at most


def check_table(dataset: Dataset, table: pa.Table) -> None:
    """Refuse an empty table and duplicate column names."""
    names = table.column_names
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise BadInput("dataset", dataset.name, f"has the column {duplicates[0]!r} twice", "rename or drop one")
    if table.num_rows == 0:
        raise BadInput("dataset", dataset.name, "has no rows", "give a table with rows")


def check_target(dataset: Dataset, names: Sequence[str]) -> None:
    """Refuse a target that is not a column."""
    if dataset.target not in names:
        raise BadInput("dataset.target", dataset.target, "is not a column", nearest(dataset.target, names))


def check_classes(dataset: Dataset, target: Target, values: Iterable[object]) -> None:
    """Refuse a class that the sample of a streamed table has no row of."""
    rare = {category_text(value) for value in values}.difference(target.classes) if target.classes else ()
    if rare:
        bound = f"has the class {min(rare)!r}, of which a sample of {dataset.sample_rows:,} rows has none"
        raise BadInput("dataset.target", dataset.target, bound, "raise dataset.sample_rows, or drop that class")


def check_parts(checks: Checks, target: Target, split: Assignment) -> None:
    """Refuse parts with too few rows, with one class, or with a class that the train part lacks."""
    known = set(np.unique(target.values[split.rows("train")])) if target.classes else set()
    for part in split.parts:
        values = target.values[split.rows(part)]
        if len(values) < checks.min_rows:
            bound = f"has {len(values)} rows with a target, fewer than dataset.checks.min_rows={checks.min_rows}"
            raise BadInput(f"split part {part}", None, bound, "change the split or lower the bound")
        if not target.classes:
            continue
        found = np.unique(values)
        if len(found) < 2:
            bound = f"has only the class {target.classes[found[0]]!r}"
            raise BadInput(f"split part {part}", None, bound, "change the split so that each part has two")
        if part in OPEN and not known.issuperset(found):
            strange = target.classes[next(i for i in found if i not in known)]
            bound = f"has the class {strange!r}, which has no row in the train part"
            raise BadInput(f"split part {part}", None, bound, "change the split or drop that class")


def check_finite(columns: tuple[ColumnSchema, ...], table: pa.Table) -> None:
    """Refuse infinite numbers, in whichever part they are."""
    for column in columns:
        if column.type == "number" and pa.types.is_floating(table[column.name].type):
            infinite = int(np.isinf(table[column.name].to_numpy()).sum())
            if infinite:
                remedy = f"make them missing, or add dataset.exclude=[{column.name}]"
                raise BadInput(f"column {column.name}", None, f"has infinite values in {infinite} rows", remedy)


def check_known(dataset: Dataset, columns: tuple[ColumnSchema, ...], table: pa.Table) -> None:
    """Refuse inputs that are recorded only with the target: missing where it is, there where it is.

    table: all rows, those without a target too. This finds what is known only after the fact
    (a flight's time in the air) however weakly it predicts.
    """
    without = table[dataset.target].is_null().to_numpy()
    if without.sum() < dataset.checks.min_rows:
        return
    for column in columns:
        missing = table[column.name].is_null().to_numpy()
        if missing[without].mean() >= _GONE and missing[~without].mean() <= _THERE:
            bound = f"is missing in {missing[without].mean():.0%} of the rows without {dataset.target} and in no other"
            remedy = f"it is known only afterwards: say dataset.columns.{column.name}.known_at=after"
            raise BadInput(f"column {column.name}", None, bound, remedy)


def check_leakage(checks: Checks, columns: tuple[ColumnSchema, ...], train: Raw, target: Target) -> list[str]:
    """Refuse a single column that nearly tells the answer; return words on columns that come close."""
    said = []
    for column in columns:
        if column.type in ("time", "text"):
            continue
        if target.classes:
            found, bound, key = _auc(column, train, target), checks.max_single_column_auc, "max_single_column_auc"
        else:
            bound, key = checks.max_single_column_correlation, "max_single_column_correlation"
            found = _correlation(column, train, target)
        measure = "AUC" if target.classes else "rank correlation"
        if found > bound:
            remedy = f"exclude it, or raise dataset.checks.{key} if it is truly known at prediction time"
            raise BadInput(f"column {column.name}", None, f"alone reaches {measure} {found:.3f}, above {bound}", remedy)
        if found > NOTABLE:
            said.append(f"{column.name}: alone reaches {measure} {found:.3f}; is it known at prediction time?")
    return said


def _order(column: ColumnSchema, train: Raw, answer: Array) -> Array:
    """Return the column as numbers: missing as the mean; a category as the other half's mean answer (out of fold)."""
    values = train[column.name][:, 0]
    if column.type != "category":
        known = values[~np.isnan(values)]
        return np.asarray(np.where(np.isnan(values), known.mean(), values))
    codes = np.unique(values.astype(str), return_inverse=True)[1]
    half = np.arange(len(values)) % 2 == 0
    ordered = np.empty(len(values))
    for own, other in ((half, ~half), (~half, half)):
        total = np.bincount(codes[other], answer[other], minlength=codes.max() + 1)
        count = np.bincount(codes[other], minlength=codes.max() + 1)
        mean = answer[other].mean()
        ordered[own] = ((total + mean) / (count + 1))[codes[own]]
    return ordered


def _auc(column: ColumnSchema, train: Raw, target: Target) -> float:
    """Return the AUC of the column alone, either direction; several classes: the mean, one against the rest."""
    found = []
    for index in range(1 if len(target.classes) == 2 else 0, len(target.classes)):
        answer = (target.values == index).astype(float)
        if 0 < answer.sum() < len(answer):
            auc = _area(_order(column, train, answer), answer)
            found.append(max(auc, 1 - auc))
    return float(np.mean(found))


def _correlation(column: ColumnSchema, train: Raw, target: Target) -> float:
    answer = target.values.astype(float)
    ordered = _order(column, train, answer)
    return 0.0 if np.ptp(ordered) == 0 else abs(float(np.corrcoef(_ranks(ordered), _ranks(answer))[0, 1]))


def _area(score: Array, positive: Array) -> float:
    """Return the area under the ROC curve from ranks (Mann and Whitney 1947); positive: 0 or 1."""
    count = positive.sum()
    above = _ranks(score)[positive == 1].sum() - count * (count + 1) / 2
    return float(above / (count * (len(positive) - count)))


def _ranks(values: Array) -> Array:
    """Return ranks from 1, the mean of their places for equal values (scipy.stats takes a second to import)."""
    low, high = (pc.rank(pa.array(values), tiebreaker=tie).to_numpy() for tie in ("min", "max"))
    return np.asarray((low + high) / 2)
