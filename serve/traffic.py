"""Which variant answers a unit: sticky, in proportion to the weights of the moment, the same on every replica."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from conf.service import Traffic

_SPAN = 2.0**64


def assign(ab_test: str, unit: str, weights: Mapping[str, float]) -> str:
    """Return the variant of a unit by weighted rendezvous hashing.

    Each variant draws -weight / ln(u) with u in (0, 1) from a hash of (ab_test, unit, variant); the largest wins,
    so a variant wins with probability weight / sum, and a change of weights moves a unit only towards a variant
    that gained or away from one that lost. Source: Thaler and Ravishankar 1998, weighted by the logarithm method
    (Schindelhauer and Schomaker 2005). Variants of weight 0 never win; raises ValueError where none is above 0.
    """
    best, chosen = 0.0, None
    for variant, weight in weights.items():
        if weight <= 0:
            continue
        digest = hashlib.blake2b(f"{ab_test}\0{unit}\0{variant}".encode(), digest_size=8).digest()
        uniform = (int.from_bytes(digest, "big") + 0.5) / _SPAN
        drawn = -weight / math.log(uniform) if uniform < 1 else math.inf
        if drawn > best:
            best, chosen = drawn, variant
    if chosen is None:
        raise ValueError("no variant has a weight above 0")
    return chosen


def weights_at(traffic: Traffic, now: float) -> dict[str, float]:
    """Return the weights of a checked policy at a moment, in seconds since 1970.

    Step i of a ramp holds from started + i * dwell_s and the last one stays; what it leaves goes to the other variants
    in proportion to their weights, so that a unit only ever moves to the ramped one. A function of the policy and the
    clock alone: replicas and hosts agree without talking.
    """
    ramp = traffic.ramp
    if not ramp.steps or ramp.started is None or now < ramp.started:
        return traffic.weights
    share = ramp.steps[int(min((now - ramp.started) // ramp.dwell_s, len(ramp.steps) - 1))]
    others = {alias: weight for alias, weight in traffic.weights.items() if alias != ramp.alias}
    total = sum(others.values())
    return {**{alias: weight / total * (1 - share) for alias, weight in others.items()}, ramp.alias: share}
