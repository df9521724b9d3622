"""The plan of a search and what it would cost; nothing is started."""

from __future__ import annotations

import tempfile
from pathlib import Path

from optuna.samplers import GridSampler

from jobs.tuning.components import make_scheduler
from jobs.tuning.journal import open_study
from jobs.tuning.schedule import expected_epochs, slots_here
from jobs.tuning.search import Prepared, checked
from jobs.tuning.searched import Search
from jobs.tuning.searcher import OptunaSearcher, drop_equal_cells

SHOWN = 5  # configs


def preview(asked: Search) -> list[str]:
    """Return the lines of the plan: trials, rungs, expected cost, and the first configs."""
    prepared = checked(asked)
    goals, form = prepared.goals, prepared.form
    cfg, rows = asked.cfg, prepared.data.sizes["train"]
    trials, epochs, seeds = cfg.tuning.num_samples, cfg.training.epochs, len(asked.replicates)
    slots = slots_here(cfg)

    def scheduler() -> object:
        return make_scheduler(cfg, rows, asked.dimensions, goals.mode)

    if isinstance(prepared.sampler, GridSampler):
        drop_equal_cells(prepared.sampler, prepared.space)
        trials = min(trials, len(prepared.sampler._all_grids))
    expected = expected_epochs(scheduler, trials, epochs, slots, rows, goals.mode)  # type: ignore[arg-type]
    most = trials * epochs
    confirmed = cfg.tuning.confirm_top_k * cfg.tuning.confirm_seeds * epochs
    directions = ", ".join(f"{metric} ({direction})" for metric, direction in goals.directions.items())
    decides = "after any epoch" if form.every else "never"
    if form.rungs:
        decides = f"at epochs {', '.join(map(str, form.rungs))}"
    lines = [
        f"{trials} trials for {directions}, {slots} at once here" + (f", each on {seeds} seeds" if seeds > 1 else ""),
        f"dimensions: {'; '.join(f'{key}={d.said}' for key, d in asked.dimensions.items())}",
        f"the scheduler decides {decides}",
        f"cost: about {expected * seeds:,.0f} epochs of {rows:,} rows ({most * seeds:,} if nothing were stopped)"
        + (f", and {confirmed:,} to confirm the best" if confirmed else ""),
        "the first configs:",
    ]
    return [*lines, *(f"  {' '.join(overrides)}" for overrides in _first(prepared, min(SHOWN, trials)))]


def _first(prepared: Prepared, count: int) -> list[tuple[str, ...]]:
    """Return the first configs as the search would ask for them, from a study that is thrown away."""
    asked, goals = prepared.asked, prepared.goals
    with tempfile.TemporaryDirectory() as folder:
        study = open_study(Path(folder) / "preview.journal", goals.directions.values(), prepared.sampler)
        searcher = OptunaSearcher(study, prepared.space, goals, prepared.form, count, asked.cfg.seed)
        for i in range(count):
            searcher.suggest(str(i))
        searcher.close()
        return [searcher.asked[str(i)].overrides for i in range(count) if str(i) in searcher.asked]
