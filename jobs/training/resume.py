"""Going on with a run that did not end: as it was asked for then, except for where it runs."""

from __future__ import annotations

from cluster.tracking import Tracking
from conf.compose import compose, flat, from_yaml
from conf.errors import BadInput
from conf.schema import TrainConfig

FREE = (
    "cluster",
    "overrides",
    "register",
    "resume",
    "scaling",  # another number of workers follows the same curve
    "scheduler",
    "search_space",
    "searcher",
    "tracking",
    "training.checkpoint_every_s",
    "training.micro_batch",
    "training.num_threads",
    "tuning",
)
_DATA = ("data_hash", "split_hash")


def resumed(cfg: TrainConfig, tracking: Tracking) -> tuple[TrainConfig, str]:
    """Return the config of the run `cfg.resume` with what is said anew, and its run id.

    The stored overrides come first; raises BadInput, naming the keys, where what is said anew would train another
    model, and where the run has finished.
    """
    run = tracking.find(str(cfg.resume), "train", cfg.name, finished=False)
    if tracking.client.get_run(run).info.status == "FINISHED":
        raise BadInput("resume", run, "has finished", "name a run that was interrupted, or train anew")
    then = from_yaml(tracking.read_text(run, "config.yaml"), TrainConfig)
    anew = [override for override in cfg.overrides if not override.startswith("resume=")]
    now = compose("train", [*then.overrides, *anew], TrainConfig)
    before, after = flat(then, FREE), flat(now, FREE)
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if changed:
        bound = f"began with other values of {', '.join(changed)}"
        raise BadInput("resume", run, bound, "leave them out, or train anew")
    now.cluster, now.tracking = cfg.cluster, cfg.tracking
    return now, run


def check_same_data(tracking: Tracking, run_id: str, made_from: dict[str, str]) -> None:
    """Raise BadInput where the data are not those that a run began with."""
    tags = tracking.client.get_run(run_id).data.tags
    for key in _DATA:
        if tags.get(key, made_from[key]) != made_from[key]:
            bound = f"began with other data ({key} {tags[key][:12]}, now {made_from[key][:12]})"
            raise BadInput("resume", run_id, bound, "bring them back, or train anew")
