"""Would another schedule have kept the winner of a search, and at what cost? From its recorded curves."""

from __future__ import annotations

from cluster.storage import storage_path
from cluster.tracking import Tracking
from conf.compose import from_yaml
from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.tuning.components import make_scheduler
from jobs.tuning.journal import journal_path, read_study
from jobs.tuning.schedule import curves_of, replayed, simulate, slots_here


def replay(cfg: TrainConfig, tracking: Tracking) -> list[str]:
    """Return what `cfg.scheduler` would have done to the run `cfg.replay`, in lines; raises BadInput."""
    run = tracking.find(str(cfg.replay), "tune", cfg.name, finished=False)
    tags = tracking.client.get_run(run).data.tags
    study = read_study(journal_path(storage_path(cfg.cluster) / "tune", run))
    curves = curves_of(study)
    if "best_trial" not in tags or not curves:
        raise BadInput("replay", run, "has no winner or no curves", "name a search with one objective that has ended")
    then = from_yaml(tracking.read_text(run, "config.yaml"), TrainConfig)
    then.scheduler = cfg.scheduler
    rows, mode, winner = int(tags["rows"]), tags["mode"], int(tags["best_trial"])
    slots = then.tuning.max_concurrent or slots_here(then)  # it may have run on a larger cluster than this machine
    simulated = simulate(make_scheduler(then, rows, {}, mode), curves, slots, rows, mode)
    return replayed(curves, simulated, winner, mode)
