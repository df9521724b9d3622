"""A run is repeated from its own record."""

from jobs.train import train
from jobs.training.reproduce import compare, recorded_config


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
