"""Train one model and register it as a version.

python -m jobs.train dataset=flights model=mlp optimizer.lr=1e-3
python -m jobs.train -m model=linear,mlp seed=1,2      # four runs, at once where the cluster allows
python -m jobs.train tuned=latest scaling=ddp          # the winner of the latest search, on Ray Train
python -m jobs.train resume=latest                     # go on with a run that was interrupted or killed
python -m jobs.train reproduce=latest                  # repeat a run and compare
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conf.entrypoint import entrypoint
from conf.schema import TrainConfig
from jobs.tuning.sweeper import SearchSweeper

if TYPE_CHECKING:
    from cluster.registry import Version


@dataclass(frozen=True)
class Result:
    """What one training run left behind."""

    run_id: str
    version: Version | None
    metrics: dict[str, float]
    notes: str  # what the curves say, and where the time went if that was asked

    def __str__(self) -> str:
        """Say it in a line."""
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items() if name.startswith("val_"))
        where = f"{self.version.name} version {self.version.number}" if self.version else "not registered"
        return f"{where}: {metrics} (run {self.run_id})"


def train(cfg: TrainConfig) -> Result:
    """Train as configured, record the run, and register its version unless `register=false`."""
    from cluster.lineage import lineage
    from cluster.progress import step
    from cluster.tracking import connect
    from jobs.data.load import default_name, load
    from jobs.training.debug import debugged
    from jobs.training.examples import prepare
    from jobs.training.findings import findings
    from jobs.training.profile import keep_profile
    from jobs.training.publish import Trained, publish
    from jobs.training.resume import check_same_data, resumed
    from jobs.training.run import run_folder, run_loop
    from jobs.tuning.winner import with_winner

    tracking = connect(cfg.tracking, cfg.cluster)
    cfg, begun = resumed(cfg, tracking) if cfg.resume else (with_winner(cfg, tracking), None)
    cfg = debugged(cfg) if cfg.debug else cfg
    name = cfg.name or default_name(cfg.dataset)
    data = load(cfg.dataset, cfg.split)
    made_from = lineage(data.data_hash, data.split_hash, cfg.seed)
    if begun is not None:
        check_same_data(tracking, begun, made_from)
    with tracking.run(name, "train", cfg, begun=begun) as run, step(f"train {name}") as shown:
        run.tag(made_from)
        training_data = prepare(cfg, data)
        outcome = run_loop(cfg, training_data, run, shown)
        folder, trained = run_folder(cfg, run.id), Trained(cfg, name, data, training_data, outcome, made_from)
        diagnosis = findings(trained, folder)
        run.tag({**outcome.tags(), **diagnosis.tags()})
        version = publish(trained, tracking, run) if cfg.register else None
        profile = keep_profile(folder, run) if cfg.profiler else ""
        result = Result(run.id, version, outcome.metrics, f"{profile}{diagnosis}")
        folder.remove()
        shown.done(str(result))
    return result


def reproduce(cfg: TrainConfig) -> bool:
    """Repeat the run `cfg.reproduce`, say what is the same, and return whether the weights are."""
    from cluster.tracking import connect
    from jobs.training.reproduce import compare, recorded_config

    tracking = connect(cfg.tracking, cfg.cluster)
    then = tracking.find(str(cfg.reproduce), "train", cfg.name)
    comparison = compare(tracking, then, train(recorded_config(cfg, tracking, then)).run_id)
    print("\n".join(comparison.said()))
    return comparison.same


@entrypoint("train", TrainConfig, sweeper=SearchSweeper)
def main(cfg: TrainConfig) -> None:
    """Train, or repeat a run (exit code 1 if the result differs)."""
    if cfg.reproduce is None:
        from cluster.progress import say
        from jobs.data.load import load

        say(load(cfg.dataset, cfg.split).said)
        result = train(cfg)
        print(result.notes)
        print(result)
    elif not reproduce(cfg):
        sys.exit(1)


if __name__ == "__main__":
    main()
