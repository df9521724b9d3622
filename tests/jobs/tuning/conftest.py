"""A maker of searchers for their contract suites."""

from types import SimpleNamespace

import pytest

from jobs.tuning.components import make_sampler
from jobs.tuning.grammar import parse_space
from jobs.tuning.journal import open_study
from jobs.tuning.objectives import objectives
from jobs.tuning.searcher import Form, OptunaSearcher
from jobs.tuning.space import Space
from tests.jobs.tuning.searching import EARLY


@pytest.fixture
def make(train_config, tmp_path):
    """Return a maker of searchers; the same file is the same study."""

    def made(name, space, *said, file="study", total=12):
        cfg = train_config("dataset=digits", f"searcher={name}", *EARLY.get(name, ()), *said)
        dimensions = parse_space(space)
        goals = objectives(cfg.tuning, "multiclass", "val_log_loss", str(cfg.scheduler["_target_"]).split(".")[-1])
        study = open_study(
            tmp_path / f"{file}.journal", goals.directions.values(), make_sampler(cfg, dimensions, goals)
        )
        checked = Space("train", tuple(cfg.overrides), dimensions)
        searcher = OptunaSearcher(study, checked, goals, Form(((),)), total, cfg.seed)
        return SimpleNamespace(cfg=cfg, study=study, searcher=searcher, space=checked, goals=goals)

    return made
