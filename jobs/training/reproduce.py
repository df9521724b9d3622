"""Repeat a run from its own record and say whether the result is the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster.tracking import Tracking
from conf.compose import from_yaml
from conf.schema import TrainConfig

COMPARED = ("data_hash", "split_hash", "code_hash", "lock_hash", "hardware", "weights_sha256")


@dataclass(frozen=True)
class Comparison:
    """What differs between a run and its repetition: tag -> (then, now)."""

    differs: dict[str, tuple[str, str]]

    @property
    def same(self) -> bool:
        """Tell whether the weights are bitwise the same."""
        return "weights_sha256" not in self.differs

    def said(self) -> list[str]:
        """Return the lines for the person who asked."""
        verdict = "reproduced: the weights are bitwise the same" if self.same else "not reproduced: the weights differ"
        return [verdict, *(f"  {tag} was {then[:16]}, is {now[:16]}" for tag, (then, now) in self.differs.items())]


def recorded_config(cfg: TrainConfig, tracking: Tracking, run_id: str) -> TrainConfig:
    """Return the config a run recorded, kept where this command keeps things, and registering nothing."""
    recorded = from_yaml(tracking.read_text(run_id, "config.yaml"), TrainConfig)
    return replace(recorded, register=False, tuned=None, tracking=cfg.tracking, cluster=cfg.cluster)


def compare(tracking: Tracking, then: str, now: str) -> Comparison:
    """Compare what two runs recorded of themselves."""
    tags_then, tags_now = (tracking.client.get_run(run).data.tags for run in (then, now))
    pairs = {tag: (tags_then.get(tag, ""), tags_now.get(tag, "")) for tag in COMPARED}
    return Comparison({tag: pair for tag, pair in pairs.items() if pair[0] != pair[1]})
