"""/metrics: what all replicas of a model counted, as Prometheus reads it; each replica has series of its own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from serve.answers import Answer
from serve.counts import BOUNDS
from serve.snapshots import Snapshot

_BUCKETS = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
_REPLICA, _VARIANT = ("model", "replica"), ("model", "replica", "variant", "version")


def metrics(model: str, snapshots: list[Snapshot], now: float, accept: str) -> Answer:
    """Write the metrics in the text format, or in OpenMetrics where the header `accept` asks for it."""
    encode, content_type = choose_encoder(accept)
    return Answer(encode(_Collected(model, snapshots, now)), headers={"content-type": content_type})


class _Collected(Collector):
    """The metrics at one moment: counters of every replica that is known, states of those that live."""

    def __init__(self, model: str, snapshots: list[Snapshot], now: float) -> None:
        self._model, self._known = model, snapshots
        self._live = [one for one in snapshots if one.lives(now)]

    def collect(self) -> Iterator[Metric]:
        yield self._requests()
        yield from self._of_variants()
        yield from self._of_replicas()
        yield from self._states()

    def _requests(self) -> Metric:
        labels = (*_VARIANT, "route", "code")
        requests = CounterMetricFamily("rungway_requests", "Requests by the status of their answer.", labels=labels)
        for one in self._known:
            for item in one.answered:
                of = [self._model, one.replica, item.variant, item.version, item.route, str(item.status)]
                requests.add_metric(of, item.count)
        return requests

    def _of_variants(self) -> Iterator[Metric]:
        said = "Seconds that answered predictions took in the replica."
        seconds = HistogramMetricFamily("rungway_request_seconds", said, labels=_VARIANT)
        rows = CounterMetricFamily("rungway_rows", "Rows predicted.", labels=_VARIANT)
        said = "Cells that the train part had nothing like."
        warnings = CounterMetricFamily("rungway_warnings", said, labels=(*_VARIANT, "kind"))
        for one in self._known:
            for tally in one.tallies:
                of = [self._model, one.replica, tally.variant, tally.version]
                buckets = list(zip(_BUCKETS, map(float, accumulate(tally.buckets)), strict=True))
                seconds.add_metric(of, buckets, tally.seconds)
                rows.add_metric(of, tally.rows)
                warnings.add_metric([*of, "out_of_range"], tally.out_of_range)
                warnings.add_metric([*of, "unseen_category"], tally.unseen)
        yield from (seconds, rows, warnings)

    def _of_replicas(self) -> Iterator[Metric]:
        said = "Prediction records that could not be kept."
        dropped = CounterMetricFamily("rungway_log_dropped", said, labels=_REPLICA)
        said = "Snapshots of these counts that could not be written."
        failed = CounterMetricFamily("rungway_snapshot_failures", said, labels=_REPLICA)
        for one in self._known:
            dropped.add_metric([self._model, one.replica], one.log_dropped)
            failed.add_metric([self._model, one.replica], one.failed_writes)
        yield from (dropped, failed)

    def _states(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("rungway_variant_info", "1 for each version that is live.", labels=_VARIANT)
        said = "Share of the units that a variant gets."
        weight = GaugeMetricFamily("rungway_weight", said, labels=(*_REPLICA, "variant"))
        said = "1 while a replica refuses what the registry says."
        refused = GaugeMetricFamily("rungway_swap_refused", said, labels=_REPLICA)
        replicas = GaugeMetricFamily("rungway_replicas", "Replicas that live.", labels=("model",))
        for one in self._live:
            for variant, version in one.versions.items():
                info.add_metric([self._model, one.replica, variant, str(version)], 1)
            for variant, share in one.weights.items():
                weight.add_metric([self._model, one.replica, variant], share)
            refused.add_metric([self._model, one.replica], float(bool(one.refused)))
        replicas.add_metric([self._model], len(self._live))
        yield from (info, weight, refused, replicas)
