"""Whatever is wrong with a table is said in one sentence before anything is trained."""

import pytest

from conf.errors import BadInput
from conf.schema import Dataset, Split
from jobs.data.load import load

RANDOM = Split(fractions={"train": 0.6, "validation": 0.2, "test": 0.2})
ROWS = "\n".join(f"{i},{'a' if i % 3 else 'b'},{i % 2}" for i in range(200))
GOOD = f"x,c,y\n{ROWS}\n"


def said(tmp_path, text: str | bytes | None, **dataset: object) -> str:
    path = tmp_path / "my table.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput) as raised:
        load(Dataset(**{"name": "table", "path": str(path), "target": "y", **dataset}), RANDOM)
    return str(raised.value)


@pytest.mark.parametrize(
    "text,dataset,parts",
    [
        (None, {}, ["dataset.path", "does not exist"]),
        ("", {}, ["is empty", "header"]),
        ("x,y\n", {}, ["has no rows"]),
        (GOOD, {"target": "yy"}, ["dataset.target: 'yy' is not a column", "did you mean 'y'"]),
        (GOOD.replace(",0\n", ",1\n"), {}, ["dataset.target: 'y' is constant"]),
        ("x,y\n" + "1,\n" * 200, {}, ["dataset.target: 'y' has no value at all"]),
        ("x,y\n" + "1,0\n" * 198 + "1,1\n2,1\n", {}, ["has only the class '0'"]),
        ("x,e,y\n" + "\n".join(f"{i},,{i % 2}" for i in range(200)), {}, ["column e", "dataset.exclude=[e]"]),
        (b"x,c,y\n1,\xff\xfe,0\n" + ROWS.encode(), {}, ["is not UTF-8"]),
        (GOOD.replace("x,c,y", "x,x,y"), {}, ["has the column 'x' twice"]),
        (GOOD.replace("\n7,", "\ninf,"), {}, ["column x", "has infinite values"]),
        (GOOD, {"exclude": ["z"]}, ["dataset.exclude: 'z' is not a column"]),
        (GOOD, {"exclude": ["x", "c"]}, ["has no input column left"]),
        (GOOD, {"task": "binary", "target": "x"}, ["dataset.task: 'binary' does not fit 200 classes"]),
        (GOOD, {"task": "regression", "target": "c"}, ["no number for regression"]),
        (GOOD, {"positive": "7"}, ["dataset.positive: '7' is not a class"]),
        (GOOD.replace("x,c,y", "x,y,z"), {"target": "x", "task": "regression"}, ["rank correlation"]),
        ("x,y\n" + "1,0\n2,1\n" * 10, {}, ["dataset.checks.min_rows=20"]),
        ("x,y\n1,0,7\n", {}, ["cannot be read"]),
    ],
)
def test_one_sentence(tmp_path, text, dataset, parts) -> None:
    if "rank correlation" in parts:
        text = "x,twin,y\n" + "\n".join(f"{i},{2 * i},{i % 2}" for i in range(200))
    sentence = said(tmp_path, text, **dataset)
    assert all(part in sentence for part in parts), sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert "; " in sentence


def test_a_column_that_tells_the_answer_is_refused(tmp_path) -> None:
    leaky = "x,twin,y\n" + "\n".join(f"{i % 7},{i % 2 + i / 1e6},{i % 2}" for i in range(200))
    assert "column twin: alone reaches AUC 1.000" in said(tmp_path, leaky)


def test_a_source_that_fails_is_named() -> None:
    with pytest.raises(BadInput, match=r"dataset: 'nowhere\.table' cannot be built"):
        load(Dataset(name="n", source={"_target_": "nowhere.table"}, target="y"), RANDOM)
