"""What the served variants did with real rows: sent over HTTP, told the truth, read back from the records."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.columns import ModelSchema
from cluster.progress import Step
from cluster.reading import read_joined
from cluster.tokens import FEEDBACK, PREDICT, Token, bearer
from conf.errors import BadInput
from jobs.data.load import Requests
from jobs.evaluation.metrics import Interval, evaluate, statistics

FEEDBACK_AT_ONCE = 100
RECORDED_S = 15.0  # how long records may take to reach the disk
SHOWN = {"regression": ("rmse", "mae"), "binary": ("auc", "log_loss"), "multiclass": ("accuracy", "log_loss")}


@dataclass(frozen=True)
class Served:
    """One variant's share of the requests."""

    variant: str
    version: int
    requests: int
    metrics: dict[str, Interval]
    p50_ms: float
    p99_ms: float


def send(url: str, requests: Requests, tag: str, shown: Step, tokens: Sequence[Token] = ()) -> dict[str, float]:
    """Send each row as a request of its own unit, then the feedback; return the milliseconds of each request id.

    tokens: those that serving knows; one that is good for it is shown with each request.
    """
    latencies = {}
    predict, feedback = bearer(tokens, PREDICT), bearer(tokens, FEEDBACK)
    with httpx.Client(base_url=url, timeout=30) as client:
        for i, (row, unit) in enumerate(zip(requests.rows, requests.units, strict=True)):
            request_id = f"{tag}-{i}"
            started = time.perf_counter()
            body = {"rows": [row], "unit": unit, "request_id": request_id}
            answer = client.post("/predict", json=body, headers=predict)
            latencies[request_id] = (time.perf_counter() - started) * 1000
            _check(answer)
            shown.update(f"{i + 1}/{len(requests.rows)} rows")
        told = [{"request_id": f"{tag}-{i}", "label": label} for i, label in enumerate(requests.labels)]
        for start in range(0, len(told), FEEDBACK_AT_ONCE):
            body = {"feedback": told[start : start + FEEDBACK_AT_ONCE]}
            _check(client.post("/feedback", json=body, headers=feedback))
    return latencies


def _check(answer: httpx.Response) -> None:
    if answer.status_code != 200:
        why = (
            answer.json()["error"]["message"] if "json" in answer.headers.get("content-type", "") else answer.text[:200]
        )
        raise BadInput("serving", str(answer.url), f"answered {answer.status_code} ({why})", "see the head's log")


def collect(storage: Path, name: str, latencies: dict[str, float], shadows: list[str]) -> pa.Table:
    """Return the records of these requests with their feedback; waits until all have reached the disk.

    shadows: aliases that answered nobody, and are left out.
    """
    wanted, unanswered = pa.array(list(latencies)), pa.array(shadows, pa.string())
    deadline = time.monotonic() + RECORDED_S
    while True:
        tables = [
            table.filter(
                pc.and_(pc.is_in(table["request_id"], wanted), pc.invert(pc.is_in(table["variant"], unanswered)))
            )
            for table in read_joined(storage, name)
        ]
        tables = [table for table in tables if table.num_rows]  # of other requests' models perhaps, with other columns
        found = pa.concat_tables(tables) if tables else None
        if found is not None and found.num_rows >= len(latencies):
            return found
        if time.monotonic() > deadline:
            kept = 0 if found is None else found.num_rows
            raise BadInput("records", kept, f"of {len(latencies)} requests reached the disk", "see the head's log")
        time.sleep(0.2)


def by_variant(
    records: pa.Table, schema: ModelSchema, latencies: dict[str, float], resamples: int, confidence: float
) -> list[Served]:
    """Return what each variant did, in the order of their names."""
    made = []
    for variant in sorted(pc.unique(records["variant"]).to_pylist()):
        own = records.filter(pc.equal(records["variant"], variant))
        answers = np.array(own["outputs"].to_pylist(), dtype=np.float32)
        if schema.classes:
            target = np.array([schema.classes.index(label) for label in own["label"].to_pylist()])
        else:
            target = own["value"].to_numpy()
        found = statistics(schema.task, answers, target)
        shown = {metric: found[metric] for metric in SHOWN[schema.task]}
        took = np.array([latencies[request_id] for request_id in own["request_id"].to_pylist()])
        made.append(
            Served(
                variant,
                own["version"][0].as_py(),
                own.num_rows,
                evaluate(shown, own.num_rows, resamples, confidence, seed=0),
                float(np.quantile(took, 0.5)),
                float(np.quantile(took, 0.99)),
            )
        )
    return made


def closing_table(served: list[Served], part: str) -> list[str]:
    """Return the table as lines, and what it does not prove."""
    metrics = list(served[0].metrics)
    head = ["variant", "version", "requests", *metrics, "p50 ms", "p99 ms"]
    rows = [
        [
            of_one.variant,
            str(of_one.version),
            str(of_one.requests),
            *(str(of_one.metrics[metric]) for metric in metrics),
            f"{of_one.p50_ms:.1f}",
            f"{of_one.p99_ms:.1f}",
        ]
        for of_one in served
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    total = sum(of_one.requests for of_one in served)
    note = (
        f"{total} rows of {part} prove nothing: the intervals show how little they say about which variant is better."
    )
    return [lines[0], "-" * len(lines[0]), *lines[1:], note]
