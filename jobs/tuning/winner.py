"""The winner of a search: what it said, kept with the search's run, so that jobs.train can train it."""

from __future__ import annotations

from cluster.tracking import Tracking
from conf.compose import compose
from conf.schema import TrainConfig

ARTIFACT = "best_overrides.txt"  # one override a line, as in the shell


def with_winner(cfg: TrainConfig, tracking: Tracking) -> TrainConfig:
    """Return the config with the winner of `cfg.tuned` under what was said in the shell; as it is without one."""
    if cfg.tuned is None:
        return cfg
    run = tracking.find(cfg.tuned, "tune", cfg.name)
    won = tracking.read_text(run, ARTIFACT).splitlines()
    return compose("train", [*won, *cfg.overrides], TrainConfig)
