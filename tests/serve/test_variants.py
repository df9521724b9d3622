"""The variants of a replica: what stays loaded, what is refused, and a ramp that goes by the clock."""

import hashlib
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cluster.bundle import MANIFEST
from conf.schema import Ramp, Traffic
from serve.variants import Variants
from tests.serve.conftest import Served, until

ALONE = Traffic("ab", {"champion": 1.0})


@pytest.fixture
def variants(served: Served) -> Iterator[Variants]:
    """Hold the champion alone, and follow."""
    served.registry.write_policy("houses", ALONE)
    made = Variants(served.cfg)
    yield made
    made.close()


def signed(manifest: Path) -> None:
    """Write the hashes of changed files anew: whole by its manifest, whatever it is."""
    hashes = json.loads(manifest.read_text())["sha256"]
    found = {name: hashlib.sha256((manifest.parent / name).read_bytes()).hexdigest() for name in hashes}
    manifest.write_text(json.dumps({"sha256": found}))


def test_the_last_champion_stays_loaded(variants, served) -> None:
    first = variants.live.variants["champion"]
    served.registry.set_alias("houses", "champion", 2)
    until(lambda: variants.live.numbers == [2])
    second = variants.live.variants["champion"]
    for variant in (first, second):
        shutil.rmtree(variant.version.folder)
    for number, wanted in ((1, first), (2, second), (1, first)):
        served.registry.set_alias("houses", "champion", number)
        until(lambda number=number: variants.live.numbers == [number])
        assert variants.live.variants["champion"].bundle is wanted.bundle
        assert variants.refused == ""


def test_a_champion_that_answered_is_there_at_once_when_the_rest_is_killed(variants, served) -> None:
    first = variants.live.variants["champion"]
    served.registry.write_policy("houses", Traffic("ab", {"challenger": 1.0}))
    until(lambda: set(variants.live.variants) == {"challenger"})
    shutil.rmtree(first.version.folder)
    served.registry.write_policy("houses", ALONE)
    until(lambda: set(variants.live.variants) == {"champion"})
    assert variants.live.variants["champion"].bundle is first.bundle


def test_a_bundle_that_answers_what_is_no_number_is_refused(variants, served) -> None:
    folder = served.registry.resolve("houses", "2").folder
    model = onnx.load(folder / "model.onnx")
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(weights)
            weights.CopyFrom(numpy_helper.from_array(np.full_like(values, np.nan), weights.name))
    onnx.save(model, folder / "model.onnx")
    signed(folder / MANIFEST)
    served.registry.set_alias("houses", "champion", 2)
    until(lambda: "answers its example rows with what is no number; register" in variants.refused)
    assert variants.live.numbers == [1]


def test_a_bundle_that_answers_in_another_shape_than_it_says_is_refused(variants, served) -> None:
    folder = served.registry.resolve("houses", "2").folder
    schema = json.loads((folder / "schema.json").read_text())
    (folder / "schema.json").write_text(json.dumps({**schema, "classes": ["no", "perhaps", "yes"]}))
    signed(folder / MANIFEST)
    served.registry.set_alias("houses", "champion", 2)
    rows = len(served.rows)
    until(lambda: f"in the shape ({rows}, 2), its schema says ({rows}, 3)" in variants.refused)
    assert variants.live.numbers == [1]


def test_a_ramp_goes_by_the_clock_and_its_variant_is_loaded_before(variants, served) -> None:
    ramp = Ramp("challenger", [0.25, 0.5], 0.5, time.time() + 2.0)
    served.registry.write_policy("houses", Traffic("ab", {"champion": 1.0}, [], ramp))
    until(lambda: variants.live.policy.ramp == ramp)
    assert set(variants.live.variants) == {"champion", "challenger"}
    seen = [variants.live.weights]
    until(lambda: seen.append(variants.live.weights) or seen[-1].get("challenger") == 0.5, 8.0)
    assert [share for i, share in enumerate(seen) if share not in seen[:i]] == [
        {"champion": 1.0},
        {"champion": 0.75, "challenger": 0.25},
        {"champion": 0.5, "challenger": 0.5},
    ]


def test_a_ramp_goes_on_while_the_registry_is_away(variants, served, tmp_path) -> None:
    ramp = Ramp("challenger", [0.25, 0.5], 600.0, time.time() - 597.0)
    served.registry.write_policy("houses", Traffic("ab", {"champion": 1.0}, [], ramp))
    until(lambda: variants.live.weights.get("challenger") == 0.25)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("ALTER TABLE registered_models RENAME TO away")
    until(lambda: variants.refused)
    until(lambda: variants.live.weights == {"champion": 0.5, "challenger": 0.5}, 8.0)
    assert variants.refused
