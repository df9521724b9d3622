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
from conf.service import Ramp, Traffic
from serve.traffic import weights_at
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


def ramped(variants: Variants, served: Served, started: float) -> Traffic:
    """Store a ramp of so many short steps that it is under way whenever it is looked at."""
    ramp = Ramp("challenger", [step / 1000 for step in range(1, 1000)], 0.5, started)
    policy = Traffic("ab", {"champion": 1.0}, [], ramp)
    served.registry.write_policy("houses", policy)
    until(lambda: variants.live.policy == policy)
    return policy


def test_a_variant_is_loaded_before_its_ramp_begins(variants, served) -> None:
    ramped(variants, served, time.time() + 3600)
    assert set(variants.live.variants) == {"champion", "challenger"}
    assert variants.live.weights == {"champion": 1.0}


def test_a_ramp_goes_by_the_clock(variants, served) -> None:
    policy = ramped(variants, served, time.time())
    seen = [variants.live.weights["challenger"]]
    for _ in range(3):
        until(lambda: variants.live.weights["challenger"] > seen[-1])
        seen.append(variants.live.weights["challenger"])
    assert set(seen) <= set(policy.ramp.steps)
    assert seen[-1] <= weights_at(policy, time.time())["challenger"]


def test_a_ramp_goes_on_while_the_registry_is_away(variants, served, tmp_path) -> None:
    ramped(variants, served, time.time())
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("ALTER TABLE registered_models RENAME TO away")
    until(lambda: variants.refused)
    share = variants.live.weights["challenger"]
    until(lambda: variants.live.weights["challenger"] > share)
    assert variants.refused
