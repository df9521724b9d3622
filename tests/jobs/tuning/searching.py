"""How the suites of searchers ask and tell, as Ray Tune would, and the spaces that they search."""

import math
from pathlib import Path

import conf
from jobs.training.epoch import EPOCH, LAST, OBJECTIVE, SAMPLES
from jobs.tuning.trial import CURVE, Asked

NAMES = sorted(path.stem for path in (Path(conf.__path__[0]) / "searcher").glob("*.yaml"))
ENUMERATES = ("grid",)
EARLY = dict.fromkeys(("tpe", "gp"), ("searcher.n_startup_trials=4",))  # the model is asked soon
LR, WIDTH, LAYERS = "tag(log, interval(1e-4, 1e-1))", "choice(8,16,32)", "range(1,5)"
NUMBERS = {"optimizer.lr": LR, "model.dropout": "interval(0.0,0.5)", "model.layers": LAYERS}
CELLS = {"model.width": WIDTH, "model.layers": LAYERS}
MIXED = {"optimizer.lr": LR, "model.width": WIDTH, "model.layers": LAYERS}
BRANCHES = {"model": "choice(mlp,linear)", "model.width": "choice(8,16)", "optimizer": "choice(adamw,sgd)"}
WHEN = {"when": {"optimizer=sgd": {"optimizer.momentum": "choice(0.0,0.9)"}}}


def own_space(name):
    return CELLS if name in ENUMERATES else MIXED


def ask(made, trial_id):
    """Return what is suggested as (number, overrides), what is asked for ahead waited for; None at the end."""
    said = made.searcher.suggest(trial_id)
    if made.searcher._ahead:
        made.searcher._ahead.result()
    if said in (None, made.searcher.FINISHED):
        return None
    asked = Asked.from_dict(said)
    sampled = made.searcher.asked[trial_id]
    assert (asked.number, asked.overrides) == (sampled.number, sampled.overrides)
    assert asked.said() == list(sampled.overrides)
    return sampled.number, sampled.overrides


def told(epoch, value, last=False, **more):
    return {EPOCH: epoch, SAMPLES: epoch * 100, OBJECTIVE: value, LAST: last, **more}


def value_of(overrides):
    """Return a smooth objective of a config, the less the better."""
    said = dict(override.split("=") for override in overrides)
    lr, width = float(said.get("optimizer.lr", 0.01)), float(said.get("model.width", 8))
    return (math.log10(lr) + 2) ** 2 + abs(width - 16) / 16 + float(said.get("model.layers", 1)) / 10


def finish(made, trial_id, value):
    made.searcher.on_trial_complete(trial_id, told(3, value, True, **{CURVE: [told(e, value + 3 - e) for e in (1, 2)]}))


def run(made, count, prefix="t"):
    """Ask and tell one after another; every third is stopped after its first epoch."""
    found = []
    for i in range(count):
        if (asked := ask(made, f"{prefix}{i}")) is None:
            break
        value = value_of(asked[1])
        if i % 3 == 2:
            made.searcher.on_trial_complete(f"{prefix}{i}", told(1, value + 1))
        else:
            finish(made, f"{prefix}{i}", value)
        found.append(asked)
    return found


def rename(path, before, after):
    """Give the study in a journal another name (a study is found by its file's)."""
    path.write_text(path.read_text().replace(f'"study_name":"{before}"', f'"study_name":"{after}"', 1))
