"""Shadows: variants that predict a copy of each request after its answer, recorded and compared, and answer nobody."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from cluster.columns import Array, Raw, joined
from cluster.records import Predictions
from cluster.segments import SegmentWriter
from conf.schema import DeployConfig
from serve.variants import Variant, Variants

GATHER_S = 0.02  # between the first copy and its prediction: what comes in meanwhile goes along in one batch
MOST_ROWS = 256  # at once: a larger batch would keep Python's lock, and so the answers, longer
NICE = 10
log = logging.getLogger("ray.serve")


@dataclass
class Compared:
    """How one shadow did beside what answered, in rows; difference: sum over rows of the mean over outputs."""

    version: int
    rows: int = 0
    agree: int = 0
    difference: float = 0.0
    failed: int = 0
    why: str = ""  # of the last failure

    def add(self, answered: Array, outputs: Array, classes: bool, tolerance: float) -> None:
        """Compare outputs [N, K]: the same class, or values that differ by at most `tolerance` of the larger.

        Raises ValueError, with nothing counted, where they are not of one shape or not finite.
        """
        if outputs.shape != answered.shape:
            raise ValueError(f"gives {outputs.shape[1]} outputs for a row, what answered gives {answered.shape[1]}")
        if not np.isfinite(outputs).all():
            raise ValueError("gives what is no number")
        apart = np.abs(outputs.astype(np.float64) - answered)
        if classes:
            agree = outputs.argmax(axis=1) == answered.argmax(axis=1)
        else:
            agree = (apart <= tolerance * np.maximum(np.abs(outputs), np.abs(answered))).all(axis=1)
        self.rows += len(outputs)
        self.agree += int(agree.sum())
        self.difference += float(apart.mean(axis=1).sum())


class Shadow:
    """Predicts copies with the shadows of the policy, in one thread that comes last in the line for a core.

    `offer` never waits: what finds the queue full is dropped and counted. Whatever goes wrong in a shadow is counted,
    said once in the log, and never met by a client.
    """

    def __init__(self, cfg: DeployConfig, variants: Variants, log: SegmentWriter[Predictions]) -> None:
        self._cfg, self._variants, self._log = cfg, variants, log
        self._queue: queue.SimpleQueue[Predictions | None] = queue.SimpleQueue()
        self._counting, self._waiting, self._dropped = threading.Lock(), 0, 0  # rows
        self._compared: dict[str, Compared] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, answered: Predictions) -> None:
        """Take a copy of what was answered."""
        if not self._variants.live.shadows:
            return
        rows = len(answered.outputs)
        with self._counting:
            if self._waiting + rows > self._cfg.serving.shadow_queue:
                self._dropped += rows
                return
            self._waiting += rows
        self._queue.put(answered)

    def counts(self) -> dict[str, dict[str, object]]:
        """Return alias -> version, rows compared, how many agree, mean difference, rows dropped and failed, and why."""
        said: dict[str, dict[str, object]] = {}
        for alias, variant in self._variants.live.shadows.items():
            found = self._of(alias, variant)
            said[alias] = {
                "version": found.version,
                "rows": found.rows,
                "agree": found.agree,
                "mean_difference": found.difference / found.rows if found.rows else None,
                "dropped": self._dropped,
                "failed": found.failed,
                "why": found.why,
            }
        return said

    def close(self) -> None:
        """Leave what waits, and end the thread."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()

    def _of(self, alias: str, variant: Variant) -> Compared:
        """Return what is known of a shadow: nothing as long as its version has not predicted."""
        found = self._compared.get(alias)
        return found if found and found.version == variant.version.number else Compared(variant.version.number)

    def _run(self) -> None:
        _come_last()
        while (first := self._queue.get()) is not None and not self._closing.wait(GATHER_S):
            for batch in batches([first, *_drained(self._queue)]):
                if self._closing.is_set():
                    return
                self._predict(batch)
                with self._counting:
                    self._waiting -= _rows(batch)

    def _predict(self, batch: list[Predictions]) -> None:
        """Predict, record and compare a batch of one version with every shadow."""
        for alias, variant in self._variants.live.shadows.items():
            found = self._compared[alias] = self._of(alias, variant)
            try:
                started = time.perf_counter()
                raw = joined([offered.raw for offered in batch], variant.bundle.schema)
                outputs = variant.bundle.predict(raw)
                latency_ms = (time.perf_counter() - started) * 1000
                answered = np.concatenate([offered.outputs for offered in batch])
                found.add(answered, outputs, bool(variant.bundle.schema.classes), self._cfg.serving.shadow_tolerance)
                if self._cfg.serving.records.predictions:
                    self._record(batch, variant, raw, outputs, latency_ms)
            except Exception as error:  # whatever it is, the answers are out already and the next batch may do
                found.failed += _rows(batch)
                if not found.why:
                    log.warning("%s: shadow %s failed: %s", self._cfg.name, alias, error)
                found.why = str(error) or repr(error)

    def _record(self, batch: list[Predictions], variant: Variant, raw: Raw, outputs: Array, latency_ms: float) -> None:
        """Append what the shadow predicted under the requests' own ids and units. latency_ms: of the whole batch."""
        request_ids = [each for offered in batch for each in offered.request_ids]
        made = Predictions(
            request_ids=request_ids,
            units=[each for offered in batch for each in offered.units],
            counts=[each for offered in batch for each in offered.counts],
            time=time.time(),
            version=variant.version.number,
            variant=variant.alias,
            raw=raw,
            outputs=outputs,
            latencies_ms=[latency_ms] * len(request_ids),
            schema=variant.bundle.schema,
        )
        self._log.append(made)


def _come_last() -> None:
    """Let every other thread have a core first; Linux alone gives threads priorities of their own."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICE))


def _drained(waiting: queue.SimpleQueue[Predictions | None]) -> Iterator[Predictions]:
    """Yield what waits; the end of the queue is left in it."""
    while not waiting.empty():
        if (offered := waiting.get()) is None:
            waiting.put(None)
            return
        yield offered


def batches(waiting: Iterable[Predictions]) -> Iterator[list[Predictions]]:
    """Yield requests by version (so by schema), in order, at most MOST_ROWS at once where no request has more."""
    by_version: dict[int, list[Predictions]] = {}
    for offered in waiting:
        by_version.setdefault(offered.version, []).append(offered)
    for of_one in by_version.values():
        batch, rows = list[Predictions](), 0
        for offered in of_one:
            if batch and rows + len(offered.outputs) > MOST_ROWS:
                yield batch
                batch, rows = [], 0
            batch.append(offered)
            rows += len(offered.outputs)
        yield batch


def _rows(batch: Iterable[Predictions]) -> int:
    return sum(len(offered.outputs) for offered in batch)
