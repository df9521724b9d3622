"""Train one model and register it as a version.

    python -m jobs.train dataset=flights model=mlp optimizer.lr=1e-3
    python -m jobs.train -m model=linear,mlp seed=1,2      # four runs at once
    python -m jobs.train tuned=latest scaling=ddp          # the winner of the latest search, on Ray Train
    python -m jobs.train reproduce=latest                  # repeat a run and compare
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from conf.entrypoint import entrypoint
from conf.schema import TrainConfig
from jobs.tuning.sweeper import SearchSweeper

if TYPE_CHECKING:
    from cluster.registry import Version


@dataclass(frozen=True)
class Trained:
    """What one training run left behind."""

    run_id: str
    version: Version | None
    metrics: dict[str, float]
    weights_sha256: str


def train(cfg: TrainConfig) -> Trained:
    """Train as configured, record the run, and register its version unless `register=false`."""
    from cluster import lineage as made_from
    from cluster.progress import say
    from cluster.tracking import connect
    from jobs.data.load import default_name, load
    from jobs.training.publish import publish
    from jobs.training.run import outcome_of
    from jobs.training.tensors import prepare
    from jobs.tuning.winner import with_winner

    tracking = connect(cfg.tracking, cfg.cluster)
    cfg = with_winner(cfg, tracking)
    name = cfg.name or default_name(cfg.dataset)
    data = load(cfg.dataset, cfg.split)
    say(data.said)
    tensors = prepare(data)
    with tracking.run(name, "train", cfg) as run:
        lineage = made_from.lineage(cfg, data.data_hash, data.split_hash)
        outcome = outcome_of(cfg, tensors)
        run.log(outcome.history, tags={"weights_sha256": outcome.weights_sha256, **lineage})
        version = publish(cfg, name, run, data, tensors, outcome, lineage) if cfg.register else None
    return Trained(run.id, version, outcome.metrics, outcome.weights_sha256)


@entrypoint("train", TrainConfig, sweeper=SearchSweeper)
def main(cfg: TrainConfig) -> None:
    """Train, or repeat a run."""
    if cfg.reproduce is not None:
        from jobs.training.reproduce import reproduce

        reproduce(cfg, train)
        return
    trained = train(cfg)
    print(trained)


if __name__ == "__main__":
    main()
