"""The traffic policy as it is stored with a registered model: checked, written, read, and said in words."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from itertools import pairwise

from conf.errors import BadInput, nearest
from conf.service import Ramp, Traffic

ALIASES = ("champion", "challenger", "shadow", "staging")
_HYDRAS = ("true", "false", "null", "nan", "inf")  # words that mean something else on a command line


def check_traffic(traffic: Traffic) -> None:
    """Raise BadInput unless weights are shares of aliases that sum to 1, and shadow and ramp go with them."""
    for alias, weight in traffic.weights.items():
        _check_alias("traffic.weights", alias)
        if not 0 <= weight <= 1:
            raise BadInput(f"traffic.weights.{alias}", weight, "is out of range", "give a value from 0 to 1")
    total = sum(traffic.weights.values())
    if abs(total - 1) > 1e-6:
        raise BadInput("traffic.weights", str(traffic.weights), f"sum to {total:g}", "give weights that sum to 1")
    for alias in traffic.shadow:
        _check_alias("traffic.shadow", alias)
        if traffic.shadow.count(alias) > 1:
            raise BadInput("traffic.shadow", alias, "is there twice", "name it once")
        if traffic.weights.get(alias):
            bound = f"answers already, with a weight of {traffic.weights[alias]:g}"
            raise BadInput("traffic.shadow", alias, bound, "give it weight 0, or leave it out of the shadows")
    if traffic.ramp.alias or traffic.ramp.steps:
        _check_ramp(traffic.ramp, traffic)


def _check_alias(key: str, alias: str) -> None:
    if alias not in ALIASES:
        raise BadInput(key, alias, "is not an alias", nearest(alias, ALIASES))


def _check_ramp(ramp: Ramp, traffic: Traffic) -> None:
    others = [alias for alias in ALIASES if alias != "champion"]
    if ramp.alias not in others:
        raise BadInput("traffic.ramp.alias", ramp.alias, "cannot be ramped", nearest(ramp.alias, others))
    if ramp.alias in traffic.shadow:
        raise BadInput("traffic.ramp.alias", ramp.alias, "is a shadow", "leave it out of the shadows")
    key, steps = "traffic.ramp.steps", ramp.steps
    if not steps:
        raise BadInput(key, None, "has no steps", "give ascending weights, such as [0.01,0.1,0.5]")
    for step in steps:
        if not 0 < step <= 1:
            raise BadInput(key, step, "is out of range", "give values greater than 0 and at most 1")
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise BadInput(key, str(steps), "do not ascend", "give each step more weight than the one before")
    own = traffic.weights.get(ramp.alias, 0.0)
    if steps[0] < own:
        bound = f"is below the weight that {ramp.alias} has, {own:g}"
        raise BadInput(key, steps[0], bound, f"start there or above, or give weights without {ramp.alias}")
    if own >= 1:
        bound = "has all the weight already"
        raise BadInput("traffic.ramp.alias", ramp.alias, bound, "give weights to who answers before")
    if not 0 < ramp.dwell_s < math.inf:
        raise BadInput("traffic.ramp.dwell_s", ramp.dwell_s, "is out of range", "give seconds, more than 0")
    if ramp.started is not None and not math.isfinite(ramp.started):
        raise BadInput("traffic.ramp.started", ramp.started, "is no moment", "give seconds since 1970, or null")


def aliases_of(traffic: Traffic) -> dict[str, str]:
    """Return every alias that a policy names, with the key that names it."""
    ramped = {traffic.ramp.alias: "traffic.ramp.alias"} if traffic.ramp.steps else {}
    shadows = dict.fromkeys(traffic.shadow, "traffic.shadow")
    return {**shadows, **ramped, **dict.fromkeys(traffic.weights, "traffic.weights")}


def started(traffic: Traffic, before: Traffic | None, now: float) -> Traffic:
    """Return the policy with the moment at which its ramp starts: now, or when the same ramp did that is under way."""
    ramp = traffic.ramp
    if not ramp.steps or ramp.started is not None:
        return traffic
    if before is not None and replace(before.ramp, started=None) == ramp:
        return replace(traffic, ramp=before.ramp)
    return replace(traffic, ramp=replace(ramp, started=now))


def to_json(traffic: Traffic) -> str:
    """Write a policy."""
    return json.dumps(asdict(traffic))


def from_json(written: str) -> Traffic:
    """Read what `to_json` wrote, now or before there were shadows and ramps; raises BadInput for anything else."""
    try:
        said = json.loads(written)
        traffic = Traffic(**{**said, "ramp": Ramp(**said.get("ramp", {}))})
        if not isinstance(traffic.shadow, list):
            raise TypeError("shadow is not a list")
        check_traffic(traffic)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput("traffic", written[:60], "is no traffic policy", "run python -m serve.deploy again") from error
    return traffic


def describe(traffic: Traffic) -> str:
    """Say a policy in a line."""
    parts = [", ".join(f"{alias} {weight * 100:.4g}%" for alias, weight in traffic.weights.items() if weight)]
    if traffic.ramp.steps:
        steps = ", ".join(f"{step:.4g}" for step in traffic.ramp.steps)
        parts.append(f"ramp of {traffic.ramp.alias} to {steps}, {traffic.ramp.dwell_s:g} s each")
    if traffic.shadow:
        parts.append(f"shadow {', '.join(traffic.shadow)}")
    return f"{'; '.join(parts)} ({traffic.ab_test})"


def overrides(traffic: Traffic) -> list[str]:
    """Return what to say to a command to have this policy; its ramp begins anew."""
    weights = ",".join(f"{alias}:{weight!r}" for alias, weight in traffic.weights.items())
    plain = traffic.ab_test.isidentifier() and traffic.ab_test.lower() not in _HYDRAS
    ab_test = traffic.ab_test if plain else repr(traffic.ab_test)
    said = [f"ab_test={ab_test}", f"weights={{{weights}}}", f"shadow=[{','.join(traffic.shadow)}]"]
    if traffic.ramp.steps:
        steps = ",".join(map(repr, traffic.ramp.steps))
        said.append(f"ramp={{alias:{traffic.ramp.alias},steps:[{steps}],dwell_s:{traffic.ramp.dwell_s!r}}}")
    return said
