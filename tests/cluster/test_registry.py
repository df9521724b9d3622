"""Bundle and registry, on a model that was really trained: what is registered, refused, and read by stock MLflow."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest

from cluster.bundle import Bundle, check_manifest
from cluster.columns import raw_from_rows
from cluster.policy import check_traffic
from cluster.registry import Registry
from cluster.tracking import connect
from conf.errors import BadInput
from conf.schema import Cluster, Dataset, PromoteConfig, TrainConfig
from conf.schema import Tracking as TrackingConfig
from conf.service import Traffic
from jobs.promote import promote
from jobs.train import train

FILES = ("model.onnx", "weights.safetensors", "config.yaml", "schema.json", "reference.json", "lineage.json")


@pytest.fixture
def own(houses, tmp_path):
    """Return a config with storage of its own, and its registry."""
    cfg = houses()
    cfg.cluster = Cluster(storage=str(tmp_path / "own"))
    return cfg, Registry(connect(cfg.tracking, cfg.cluster))


def test_versions_aliases_and_policy(own) -> None:
    cfg, registry = own
    first, second = (train(cfg).version for _ in range(2))
    name = first.name
    assert name == "my-houses"
    assert (first.number, first.semver, second.number, second.semver) == (1, "1.0.0", 2, "1.1.0")
    assert registry.aliases(name) == {"champion": 1}
    with pytest.raises(BadInput, match=r"'challenger' is no alias of my-houses; run: python -m jobs.promote"):
        registry.write_policy(name, Traffic("ab", {"champion": 0.5, "challenger": 0.5}))
    promoted = promote(_promotion(cfg, name))
    assert registry.resolve(name, "challenger") == registry.resolve(name, "latest") == promoted
    registry.write_policy(name, Traffic("ab", {"champion": 0.25, "challenger": 0.75}))
    assert registry.policy(name).weights == {"champion": 0.25, "challenger": 0.75}
    with pytest.raises(BadInput, match="did you mean 'champion'"):
        registry.resolve(name, "chmapion")
    with pytest.raises(BadInput, match="is no registered model; did you mean 'my-houses'"):
        registry.resolve("my-house", "latest")
    cfg.dataset.exclude.append("rooms")
    assert train(cfg).version.semver == "2.0.0"


def _promotion(cfg, name):
    return PromoteConfig(name=name, alias="challenger", cluster=cfg.cluster)


def test_a_version_has_a_number_an_alias_and_is_latest(registered) -> None:
    registry, name = registered.registry, registered.first.name
    assert (registered.first.semver, registered.second.semver) == ("1.0.0", "1.1.0")
    for said in ("1", "champion"):
        assert registry.resolve(name, said) == registered.first
    for said in ("2", "latest"):
        assert registry.resolve(name, said) == registered.second
    assert registry.names() == [name]
    assert registry.policy(name) == Traffic("default", {"champion": 1.0})


@pytest.mark.parametrize("said", ["3", "0", "-1", "1.0", "²", "challenger", "Champion", ""])
def test_an_unknown_version_is_refused_in_one_sentence(registered, said) -> None:
    with pytest.raises(BadInput, match=r"is no version or alias of my-houses; .*1, 2, champion, latest\.$") as raised:
        registered.registry.resolve(registered.first.name, said)
    assert "\n" not in str(raised.value)


def test_a_model_without_versions_is_said(own) -> None:
    cfg, registry = own
    connect(cfg.tracking, cfg.cluster).client.create_registered_model("empty")  # as an interruption leaves it
    for said in ("latest", "champion", "1"):
        with pytest.raises(BadInput, match=f"'{said}' is no version or alias of empty"):
            registry.resolve("empty", said)


def test_an_unknown_alias_is_not_set(registered) -> None:
    with pytest.raises(BadInput, match="'chalenger' is not an alias; did you mean 'challenger'"):
        registered.registry.set_alias(registered.first.name, "chalenger", 1)
    assert registered.registry.aliases(registered.first.name) == {"champion": 1}


def test_a_run_without_the_artifact_is_named(registered) -> None:
    assert "dear" in registered.tracking.read_text(registered.second.run_id, "config.yaml")
    assert registered.tracking.find("latest", "train", "my-houses") == registered.second.run_id
    assert registered.tracking.find(registered.first.run_id, "train") == registered.first.run_id
    with pytest.raises(BadInput, match=r"has no search\.json; name a run of the right kind"):
        registered.tracking.read_text(registered.first.run_id, "search.json")


@pytest.mark.parametrize(
    "weights,said",
    [({"champion": 0.5}, "sum to 0.5"), ({"champion": 1.5}, "from 0 to 1"), ({"winner": 1.0}, "is not an alias")],
)
def test_weights_are_whole(weights, said) -> None:
    with pytest.raises(BadInput, match=said):
        check_traffic(Traffic("ab", weights))


def test_whatever_is_wrong_with_a_bundle_is_refused_and_registers_nothing(own, tmp_path) -> None:
    cfg, registry = own
    version = train(cfg).version
    for name in FILES:
        copy = tmp_path / "copy"
        shutil.copytree(version.folder, copy)
        (copy / name).write_bytes((copy / name).read_bytes() + b" ")
        with pytest.raises(BadInput, match=f"{name} was changed after registration"):
            Bundle.load(copy)
        (copy / name).unlink()
        with pytest.raises(BadInput, match=f"{name} is missing"):
            check_manifest(copy)
        shutil.rmtree(copy)
    shutil.copytree(version.folder, tmp_path / "copy")
    (tmp_path / "copy" / "extra.py").write_text("import os")
    with pytest.raises(BadInput, match=r"extra.py is not in the manifest"):
        registry.register(
            version.name, connect(cfg.tracking, cfg.cluster).start(version.name, "train"), tmp_path / "copy"
        )
    assert registry.resolve(version.name, "latest").number == version.number


def test_an_export_that_disagrees_registers_nothing(own, strange_network) -> None:
    cfg, registry = own
    cfg.model = strange_network
    with pytest.raises(BadInput, match=r"export: differs from PyTorch by .* nothing was registered"):
        train(cfg)
    assert registry.names() == []


def test_stock_mlflow_reads_it_without_the_repo(own) -> None:
    cfg, _ = own
    version = train(cfg).version
    bundle = Bundle.load(version.folder)
    wanted = bundle.predict(raw_from_rows(bundle.example(), bundle.schema))
    uri = connect(cfg.tracking, cfg.cluster).uri
    script = f"""
import json, sys, mlflow, pandas as pd
mlflow.set_tracking_uri({uri!r})
model = mlflow.pyfunc.load_model("models:/{version.name}@champion")
rows = pd.DataFrame(json.load(open({str(version.folder / "example.json")!r})))
typed = rows.assign(sold=pd.to_datetime(rows["sold"]))
print(json.dumps([model.predict(d).values.tolist() for d in (rows, typed, rows.astype(object))]))
assert not {{"cluster", "conf", "jobs"}} & set(sys.modules)
"""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd="/", env=clean, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for found in json.loads(ended.stdout.splitlines()[-1]):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    check_manifest(version.folder)  # MLflow's own note beside it does no harm


def _train_once(cfg) -> int:
    return train(cfg).version.number


def test_two_processes_register_at_once(own) -> None:
    cfg, registry = own
    with get_context("spawn").Pool(2) as pool:
        numbers = pool.map(_train_once, [cfg, replace(cfg, seed=1)])
    assert sorted(numbers) == [1, 2]
    assert registry.aliases("my-houses")["champion"] in (1, 2)


def test_runs_end_as_their_block_does(tmp_path) -> None:
    tracking = connect(TrackingConfig(), Cluster(storage=str(tmp_path)))
    with pytest.raises(BadInput, match="there is no finished train run"):
        tracking.find("latest", "train")
    for error, status in ((ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")):
        with pytest.raises(error), tracking.run("m", "train", tracked()) as run:
            raise error
        assert tracking.client.get_run(run.id).info.status == status
    with tracking.run("m", "train", tracked()) as run:
        run.log([(1, 1.0, {"loss": 2.0}), (2, 2.0, {"loss": 1.0})])
    assert tracking.find("latest", "train", "m") == run.id
    assert [m.value for m in tracking.client.get_metric_history(run.id, "loss")] == [2.0, 1.0]
    with pytest.raises(BadInput, match="is no run here"):
        tracking.find("0" * 32, "train")


def tracked() -> TrainConfig:
    return TrainConfig(dataset=Dataset(name="m", target="y"))
