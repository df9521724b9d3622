"""The plan of a search: what it would cost, with nothing spent."""

from cluster.storage import storage_path
from jobs.tuning.grammar import parse_space
from jobs.tuning.preview import preview
from jobs.tuning.searched import Search

SAID = ("dataset=digits", "model=mlp", "scheduler=none", "training.epochs=4", "cluster.num_cpus=2", "name=planned")


def test_a_grid_has_the_cells_that_differ_and_takes_the_room_that_it_may(train_config) -> None:
    cfg = train_config(*SAID, "searcher=grid", "tuning.max_concurrent=1", "tuning.num_samples=99")
    space = parse_space({"model": "choice(mlp,linear)", "model.width": "choice(8,16)"})
    folder = storage_path(cfg.cluster) / "tune"
    before = set(folder.glob("*"))
    first, dimensions, decides, cost, _, *configs = preview(Search(cfg, space, (("seed=1",), ("seed=2",))))
    assert first == "3 trials for val_log_loss (min), 1 at once here, each on 2 seeds"
    assert dimensions == "dimensions: model=choice(mlp,linear); model.width=choice(8,16)"
    assert decides == "the scheduler decides never"
    assert cost == "cost: about 24 epochs of 1,258 rows (24 if nothing were stopped)"
    assert sorted(configs) == ["  model=linear", "  model=mlp model.width=16", "  model=mlp model.width=8"]
    assert set(folder.glob("*")) == before
