"""Ray Tune by itself: python -m tests.bench.peers.ray_tune {documented|reused} TRIALS EPOCHS {none|SECONDS} FOLDER.

documented: OptunaSearch, ASHA and MLflow's callback (SQLite) around a function, all else as Ray has it by default.
reused: a class whose actors are used again; no loggers, no MLflow, no checkpoints, nothing shown: as an expert would.
Both train epochs of our own loop (problem.py). Prints one JSON line.
"""

from __future__ import annotations

import os
import sys

HOW, TRIALS, EPOCHS, FOLDER = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[5]
_BEFORE = set(os.environ)

import cluster  # noqa: E402
from tests.bench.peers.problem import DECAY, GRACE, LR, REDUCTION, SLOTS, WIDTHS, as_json, loop, seconds_of  # noqa: E402

for _key in (
    set(cluster.ENVIRONMENT) - _BEFORE - {"RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED", "MLFLOW_DISABLE_TELEMETRY"}
):
    del os.environ[_key]  # our settings are not Ray's defaults
if HOW == "reused":
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.schedulers import ASHAScheduler  # noqa: E402
from ray.tune.search.optuna import OptunaSearch  # noqa: E402

SECONDS = seconds_of(sys.argv[4])


def documented(config: dict[str, float]) -> None:
    """Train as a function that reports each epoch."""
    for epoch in loop(EPOCHS, SECONDS, config["lr"], config["weight_decay"], int(config["width"])):
        tune.report({"objective": epoch.objective})


class Reused(tune.Trainable):
    """Train an epoch a step, in an actor that is used again."""

    def setup(self, config: dict[str, float]) -> None:
        """Take the first trial."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, float]) -> bool:
        """Take the next trial."""
        self.loop = loop(EPOCHS, SECONDS, new_config["lr"], new_config["weight_decay"], int(new_config["width"]))
        return True

    def step(self) -> dict[str, object]:
        """Train an epoch."""
        epoch = next(self.loop)
        return {"objective": epoch.objective, "done": epoch.last}


def run_config() -> tune.RunConfig:
    """Return what is written and shown."""
    if HOW == "reused":
        nothing_kept = tune.CheckpointConfig(checkpoint_at_end=False)  # Ray's default for a class saves each trial
        return tune.RunConfig(storage_path=FOLDER, name="peer", verbose=0, checkpoint_config=nothing_kept)
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    logger = MLflowLoggerCallback(tracking_uri=f"sqlite:///{FOLDER}/mlflow.db", experiment_name="peer")
    return tune.RunConfig(storage_path=FOLDER, name="peer", callbacks=[logger])


def main() -> None:
    """Search, and print what it took."""
    ray.init(address="local", num_cpus=SLOTS)
    searcher = OptunaSearch(metric="objective", mode="min", seed=0)
    scheduler = ASHAScheduler(
        metric="objective", mode="min", max_t=EPOCHS, grace_period=GRACE, reduction_factor=REDUCTION
    )
    space = {"lr": tune.loguniform(*LR), "weight_decay": tune.loguniform(*DECAY), "width": tune.choice(list(WIDTHS))}
    results = tune.Tuner(
        Reused if HOW == "reused" else documented,
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=searcher, scheduler=scheduler, num_samples=TRIALS, reuse_actors=HOW == "reused" or None
        ),
        run_config=run_config(),
    ).fit()
    assert not results.errors, results.errors
    assert len(results) == TRIALS, len(results)
    epochs = sum(result.metrics["training_iteration"] for result in results if result.metrics)
    print(as_json(searcher._ot_study.trials, epochs))


if __name__ == "__main__":
    main()
