"""How many replicas a model has: by the requests that are in hand, and by how long answers take."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from conf.errors import BadInput
from conf.service import Scaling, Serving
from serve.counts import Counts, quantile

LATENCY = "latency_ms"
QUANTILE = 0.9


def replicas_wanted(replicas: int, ongoing: float, latency_ms: float, scaling: Scaling) -> int:
    """Return how many replicas would bring both to their targets, at least 1; bounds and delays are Serve's.

    ongoing: requests in hand of all replicas; latency_ms: of the slowest replica, taken to fall as 1 / replicas.
    """
    by_queue = ongoing / scaling.target_ongoing
    by_latency = 0.0 if scaling.target_latency_ms is None else replicas * latency_ms / scaling.target_latency_ms
    return max(1, math.ceil(max(by_queue, by_latency)))


class ByLoad:
    """Serve's autoscaling policy: what `replicas_wanted` says of what the replicas report."""

    def __init__(self, **scaling: Any) -> None:
        self._scaling = Scaling(**scaling)

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the replicas wanted, and no state."""
        latencies = (ctx.aggregated_metrics or {}).get(LATENCY, {})
        latency_ms = max(latencies.values(), default=0.0)
        return replicas_wanted(ctx.current_num_replicas, float(ctx.total_num_requests), latency_ms, self._scaling), {}


class Latency:
    """The latency of one replica's answers since it was asked last, from its counts."""

    def __init__(self, counts: Counts) -> None:
        self._counts, self._before = counts, counts.buckets()

    def __call__(self) -> dict[str, float]:
        """Return the 0.9 quantile in milliseconds; 0 where nothing was answered."""
        now = self._counts.buckets()
        since = [count - before for count, before in zip(now, self._before, strict=True)]
        self._before = now
        return {LATENCY: (quantile(since, QUANTILE) or 0.0) * 1000}


def check_scaling(serving: Serving) -> None:
    """Raise BadInput where the most replicas are fewer than the least."""
    least, most = serving.num_replicas, serving.scaling.max_replicas
    if most is not None and most < least:
        raise BadInput("serving.scaling.max_replicas", most, f"is below serving.num_replicas={least}", "raise it")


def replicas(serving: Serving) -> dict[str, Any]:
    """Return what Serve is told of how many replicas there are."""
    least, scaling = serving.num_replicas, serving.scaling
    if scaling.max_replicas in (None, least):
        return {"num_replicas": least}
    told = AutoscalingConfig(
        min_replicas=least,
        initial_replicas=least,
        max_replicas=scaling.max_replicas or least,
        target_ongoing_requests=scaling.target_ongoing,
        upscale_delay_s=scaling.up_after_s,
        downscale_delay_s=scaling.down_after_s,
        metrics_interval_s=1.0,
        look_back_period_s=min(5.0, scaling.up_after_s + 1.0),
        policy=AutoscalingPolicy(
            policy_function=f"{__name__}:{ByLoad.__name__}",
            policy_kwargs=asdict(scaling),
        ),
    )
    return {"autoscaling_config": told}
