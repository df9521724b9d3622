"""How models are served, typed: the settings groups `serving` and `traffic`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from conf.bounds import one_of, whole, within


@dataclass
class Http:
    """Where serving listens."""

    host: str = "127.0.0.1"
    port: int = whole(8000, ge=1, le=65535)
    token_file: Optional[str] = None  # lines of `role token`; null: those in $RUNGWAY_TOKENS, if any


@dataclass
class Records:
    """What serving keeps of requests and of what became of them."""

    predictions: bool = True
    sample: float = within(1.0, ge=0.0, le=1.0)  # share of the requests recorded, chosen by their ids
    omit: list[str] = field(default_factory=list)  # columns left out: null in the records; "unit" is one too
    hash: list[str] = field(default_factory=list)  # columns written as a hash with a key, <storage>/records/key
    retention_days: Optional[int] = whole(None, ge=1)  # days that records are kept after their own; null: all
    queue_rows: int = whole(100_000, ge=1)  # rows that wait to be written; what is more is dropped and counted
    flush_s: float = within(1.0, gt=0.0)  # predictions: a killed replica loses what is younger


@dataclass
class Scaling:
    """How many replicas there are, from serving.num_replicas on; without max_replicas just these."""

    max_replicas: Optional[int] = whole(None, ge=1)
    target_ongoing: float = within(16.0, gt=0.0)  # requests in hand in a replica
    target_latency_ms: Optional[float] = within(None, gt=0.0)  # 0.9 quantile, slowest replica; null: any
    up_after_s: float = within(5.0, gt=0.0)  # that more are wanted
    down_after_s: float = within(300.0, gt=0.0)  # that fewer are wanted


@dataclass
class Isolated:
    """What each variant's own deployment has under serving.isolation=deployment."""

    num_replicas: int = whole(1, ge=1)
    cpus: float = within(1.0, gt=0.0)  # of a replica
    gpus: float = within(0.0, ge=0.0)  # of a replica; above 0 needs ONNX Runtime with CUDA


@dataclass
class Serving:
    """How a registered model is served."""

    http: Http = field(default_factory=Http)
    num_replicas: int = whole(1, ge=1)
    scaling: Scaling = field(default_factory=Scaling)
    cpus_per_replica: float = within(1.0, gt=0.0)
    gpus_per_replica: float = within(0.0, ge=0.0)  # above 0 needs ONNX Runtime with CUDA
    isolation: str = one_of("replica", ("replica", "deployment"))  # "deployment": each variant in one of its own
    isolated: Isolated = field(default_factory=Isolated)
    max_rows: int = whole(1000, ge=1)  # rows in one request
    max_body_mb: float = within(4.0, gt=0.0)
    max_ongoing: int = whole(64, ge=1)  # requests that a replica has in hand at once; more are refused (429)
    poll_s: float = within(1.0, gt=0.0)  # how often aliases and policy are looked at
    records: Records = field(default_factory=Records)
    shadow_queue: int = whole(1000, ge=1)  # rows that wait for the shadows; more are dropped and counted
    shadow_tolerance: float = within(0.01, ge=0.0)  # regression: relative difference at which two answers agree


@dataclass
class Ramp:
    """A variant that takes over step by step; without alias and steps there is none."""

    alias: str = ""  # which variant's weight grows
    steps: list[float] = field(default_factory=list)  # its weights, ascending, each above 0 and at most 1
    dwell_s: float = within(600.0, gt=0.0)  # how long each step holds; the last one stays
    started: Optional[float] = None  # seconds since 1970; null: when it is stored


@dataclass
class Traffic:
    """Which variants answer, and for how many of the units."""

    ab_test: str = "default"  # salt of the sticky hash: a new name deals the units anew
    weights: dict[str, float] = field(default_factory=dict)  # alias -> weight; they sum to 1
    shadow: list[str] = field(default_factory=list)  # aliases that predict a copy after the answer, and are compared
    ramp: Ramp = field(default_factory=Ramp)
