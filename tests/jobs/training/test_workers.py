"""The same curve for one process, for one worker of Ray Train and for two; runs repeat bitwise."""

import numpy as np
import pytest
import ray

from conf.errors import BadInput
from conf.schema import Scaling
from jobs.train import train
from jobs.training.context import LocalContext
from jobs.training.loop import fit
from jobs.training.reproduce import compare, recorded_config
from jobs.training.scaling import check_resources
from jobs.training.workers import fit_on_workers


def test_two_workers_give_the_curve_of_one_process(ray_session, small_data, small_config, tmp_path) -> None:
    cfg = small_config(batch_size=50)  # 700 rows: the last batch is whole; 301 validation rows: uneven shards
    cfg.model["dropout"] = 0.0  # the only thing that differs between workers
    cfg.scaling = Scaling("ddp", num_workers=2, cpus_per_worker=0.5)
    data = small_data("binary")
    alone, together = fit(cfg, data, LocalContext()), fit_on_workers(cfg, ray.put(data), tmp_path / "with space")
    assert together.kept_epoch == alone.kept_epoch
    for name in ("train_loss", "val_loss", "val_auc"):
        curve, other = ([metrics[name] for metrics in outcome.history] for outcome in (alone, together))
        np.testing.assert_allclose(other, curve, rtol=1e-4)


def test_an_uneven_last_batch_counts_each_row_once(ray_session, small_data, small_config, tmp_path) -> None:
    cfg = small_config(batch_size=233, epochs=2)  # 700 = 3 * 233 + 1: one worker has no row in the last batch
    cfg.model["dropout"] = 0.0
    cfg.scaling = Scaling("ddp", num_workers=2, cpus_per_worker=0.5)
    data = small_data("regression")
    alone, together = fit(cfg, data, LocalContext()), fit_on_workers(cfg, ray.put(data), tmp_path)
    curves = [[metrics["train_loss"] for metrics in outcome.history] for outcome in (alone, together)]
    np.testing.assert_allclose(*curves, rtol=1e-4)


def test_more_workers_than_the_cluster_can_hold_are_refused() -> None:
    with pytest.raises(BadInput, match=r"scaling.num_workers: 3 needs 3 CPU, the cluster has 2; ask for fewer"):
        check_resources(Scaling("ddp", num_workers=3), {"CPU": 2.0})
    with pytest.raises(BadInput, match="needs 1 GPU, the cluster has 0"):
        check_resources(Scaling("ddp", num_workers=1, gpus_per_worker=1), {"CPU": 2.0})


def test_a_run_is_repeated_from_its_record(houses) -> None:
    from cluster.tracking import connect

    cfg = houses("training.epochs=2", "seed=5", "name=reproduced")
    first = train(cfg)
    tracking = connect(cfg.tracking, cfg.cluster)
    again = train(recorded_config(houses(), tracking, first.run_id))
    assert again.version is None
    comparison = compare(tracking, first.run_id, again.run_id)
    assert comparison.same
    assert comparison.said() == ["reproduced: the weights are bitwise the same"]
    other = train(houses("training.epochs=2", "seed=6", "register=false"))
    assert not compare(tracking, first.run_id, other.run_id).same
    tags = tracking.client.get_run(first.run_id).data.tags
    assert {"data_hash", "split_hash", "code_hash", "lock_hash", "commit", "hardware", "seed"} <= set(tags)
