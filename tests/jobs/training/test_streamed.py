"""What is read while it is trained on: each row once an epoch, well mixed, in an order that a resume finds again."""

from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.errors import BadInput
from conf.schema import Scaling, Training
from jobs.data.encode import Encoded
from jobs.data.stored import Stored, Writer
from jobs.models.predictor import build
from jobs.training import batches, streamed
from jobs.training.context import LocalContext
from jobs.training.examples import Examples, TrainingData
from jobs.training.folder import RunFolder
from jobs.training.loop import Loop, fit
from jobs.training.saver import Saver, Stopped
from jobs.training.streamed import Streamed
from jobs.training.workers import fit_on_workers


def write(part: Examples, folder: Path) -> Stored:
    """Store a part in two pieces."""
    named = dict(zip(("numbers", "codes", "times"), part.inputs.blocks, strict=True)) | {"target": part.target}
    writer = Writer(folder, {name: (str(array.dtype), array.shape[1:]) for name, array in named.items()})
    for piece in (slice(0, 100), slice(100, None)):
        writer.append({name: array[piece] for name, array in named.items()})
    writer.close()
    return Stored.open(folder)


@pytest.fixture
def stored_data(small_data, tmp_path, monkeypatch):
    """Return a table whose rows lie on disk and are read in windows of 96, in runs of 16."""
    monkeypatch.setattr(streamed, "RUN", 16)
    monkeypatch.setattr(streamed, "WINDOW_ROWS", 96)

    def make(task: str) -> TrainingData:
        data = small_data(task)
        train, validation = (
            replace(part, stored=write(part, tmp_path / "stored" / name))
            for name, part in (("train", data.train), ("validation", data.validation))
        )
        return TrainingData(data.schema, train, validation)

    return make


@dataclass
class Numbered:
    """Rows that say their own number."""

    rows: int
    folder: Path

    def batches(self, rank: int = 0, world_size: int = 1) -> Streamed:
        context = LocalContext()
        context.rank, context.world_size = rank, world_size
        numbers = np.arange(self.rows, dtype=np.float32)[:, None]
        empty = np.empty((self.rows, 0), np.int64)
        part = Examples(Encoded(numbers, empty, empty), np.arange(self.rows))
        stored = Stored.open(self.folder) if self.folder.exists() else write(part, self.folder)
        return Streamed(Bare(), part, stored, context)


class Bare:
    """A predictor whose features are the numbers themselves."""

    @staticmethod
    def features(numbers: torch.Tensor, _times: torch.Tensor) -> torch.Tensor:
        return numbers


def rows_of(batches) -> list[list[int]]:
    return [batch.target.tolist() for batch in batches]


@given(
    rows=st.integers(101, 700),
    size=st.integers(1, 300),
    number=st.integers(0, 3),
    world=st.integers(1, 3),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_each_row_once_and_any_batch_can_be_gone_to(
    tmp_path_factory, rows, size, number, world, data
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(streamed, "RUN", 16)
        patched.setattr(streamed, "WINDOW_ROWS", 96)
        source = Numbered(rows, tmp_path_factory.mktemp("rows") / "part")
        training = Training(batch_size=size)
        whole = rows_of(source.batches().epoch(training, 0, number, 0))
        assert sorted(chain(*whole)) == list(range(rows))
        assert {len(batch) for batch in whole[:-1]} <= {size}
        start = data.draw(st.integers(0, len(whole) - 1))
        assert rows_of(source.batches().epoch(training, 0, number, start)) == whole[start:]
        shares = [rows_of(source.batches(rank, world).epoch(training, 0, number, 0)) for rank in range(world)]
        for i, batch in enumerate(whole):
            assert [shares[row % world][i][row // world] for row in range(len(batch))] == batch
        looked = [rows_of(source.batches(rank, world).shares()) for rank in range(world)]
        assert len({len(pieces) for pieces in looked}) == 1
        for rank, pieces in enumerate(looked):
            assert list(chain(*pieces)) == list(range(rank, rows, world))


def test_rows_that_lie_in_order_are_mixed(tmp_path) -> None:
    source = Numbered(100_000, tmp_path / "part").batches()
    first, second = (rows_of(source.epoch(Training(batch_size=1000), 0, number, 0)) for number in (1, 2))
    assert first != second
    means = np.array([np.mean(batch) for batch in first])
    assert np.abs(means - 50_000).max() < 5 * 100_000 / np.sqrt(12 * 200)  # as if of 200 rows from anywhere, or more


def test_an_epoch_ends_after_as_many_batches_as_said(tmp_path) -> None:
    source = Numbered(1000, tmp_path / "part").batches()
    whole = rows_of(source.epoch(Training(batch_size=64), 0, 1, 0))
    assert rows_of(source.epoch(Training(batch_size=64, steps_per_epoch=5), 0, 1, 2)) == whole[2:5]


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_same_weights_have_the_same_metrics_as_in_memory(stored_data, small_data, small_config, task) -> None:
    stored, resident = stored_data(task), small_data(task)
    schema, train = resident.schema, resident.train
    state = build(small_config().model, schema, train.inputs, train.target).state_dict()
    found = []
    for data in (stored, resident):
        loop = Loop(small_config(), data, LocalContext())
        loop._predictor.load_state_dict(state)
        found.append(loop.validate(loop._validation))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_training_reaches_what_it_does_in_memory(stored_data, small_data, small_config) -> None:
    cfg = small_config(epochs=10)
    there, here = (fit(cfg, data, LocalContext()) for data in (stored_data("binary"), small_data("binary")))
    assert there.metrics["val_auc"] == pytest.approx(here.metrics["val_auc"], abs=0.02)


def test_a_run_stopped_within_an_epoch_ends_bitwise_as_an_unbroken_one(stored_data, small_config, tmp_path) -> None:
    cfg, data, looks = small_config(), stored_data("binary"), iter(range(100))
    unbroken = fit(cfg, data, LocalContext())
    folder = RunFolder(tmp_path / "run")
    folder.prepare()
    saver = Saver(folder, cfg.training, 0, lambda: next(looks) == 17)
    with pytest.raises(Stopped):
        fit(cfg, data, LocalContext(watchers=[saver]))
    saver.end()
    again = Saver(folder, cfg.training, 0, lambda: False)
    assert fit(cfg, data, LocalContext(watchers=[again])).weights_sha256 == unbroken.weights_sha256
    again.end()


def test_two_workers_give_the_curve_of_one_process(
    ray_session, stored_data, small_config, tmp_path, monkeypatch
) -> None:
    monkeypatch.undo()  # workers are other processes: they have the real windows
    cfg, data = small_config(batch_size=50, epochs=3), stored_data("binary")
    cfg.model["dropout"] = 0.0
    alone = fit(cfg, data, LocalContext())
    together = fit_on_workers(
        replace(cfg, scaling=Scaling("ddp", 2, cpus_per_worker=0.5)), ray.put(data), tmp_path / "r"
    )
    for name in ("train_loss", "val_loss", "val_auc"):
        np.testing.assert_allclose(*([m[name] for m in made.history] for made in (alone, together)), rtol=1e-4)


def test_what_does_not_fit_the_device_is_read_from_memory_in_the_same_order(
    stored_data, small_data, small_config, monkeypatch
) -> None:
    from_disk = fit(small_config(), stored_data("binary"), LocalContext())
    monkeypatch.setattr(batches, "fits", lambda *_: False)
    from_memory = fit(small_config(), small_data("binary"), LocalContext())
    assert from_memory.weights_sha256 == from_disk.weights_sha256
    assert from_memory.history == from_disk.history


def test_classes_cannot_be_drawn_from_a_stream(stored_data, small_config) -> None:
    with pytest.raises(BadInput, match=r"training\.sampling: 'balanced' needs all rows in memory"):
        fit(small_config(sampling="balanced"), stored_data("binary"), LocalContext())
