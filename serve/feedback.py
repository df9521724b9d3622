"""What became of a prediction: checked, and acknowledged only when it is on disk."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from cluster.columns import ModelSchema
from cluster.records import Feedback
from cluster.segments import SegmentWriter
from conf.errors import BadInput, nearest
from serve.answers import Refused


async def accept(body: dict[str, Any], schema: ModelSchema, kept: SegmentWriter[Feedback]) -> int:
    """Keep {"request_id", "label", "row"} or {"feedback": [...]} and return how many.

    Raises BadInput naming the place of a mistake, with nothing kept, and Refused (503) where the disk takes none.
    """
    given = body.get("feedback", [body])
    if "feedback" in body and len(body) > 1:
        unknown = sorted(set(body) - {"feedback"})[0]
        raise BadInput(unknown, None, "is not a field beside feedback", "send it with each of its items, or not at all")
    if not isinstance(given, list) or not given or not all(isinstance(item, dict) for item in given):
        raise BadInput("feedback", None, "is not a list of objects", 'send {"request_id": ..., "label": ...}')
    truths = [_truth(item, i, schema) for i, item in enumerate(given)]
    labels = [truth if isinstance(truth, str) else None for truth in truths]
    values = [truth if isinstance(truth, float) else None for truth in truths]
    ids, rows = [item["request_id"] for item in given], [item.get("row", 0) for item in given]
    try:
        await asyncio.wrap_future(kept.append_durably(Feedback(ids, rows, time.time(), labels, values)))
    except OSError as error:
        why = BadInput("feedback", None, f"cannot be kept ({error.strerror or error})", "send it again later")
        raise Refused(503, why) from error
    return len(given)


def _truth(item: dict[str, Any], place: int, schema: ModelSchema) -> str | float:
    """Return the class or number that one feedback says; raises BadInput naming its place."""
    where = f"feedback[{place}]"
    if set(item) - {"request_id", "row", "label"} or not item.get("request_id") or "label" not in item:
        raise BadInput(where, None, "has not the fields request_id, label and perhaps row", "give just these")
    row, label = item.get("row", 0), item["label"]
    if not isinstance(item["request_id"], str) or type(row) is not int or not 0 <= row < 2**31:
        raise BadInput(where, None, "has a request_id that is no text, or a row that is no index", "correct it")
    number = isinstance(label, int | float) and not isinstance(label, bool) and math.isfinite(label)
    if schema.classes:
        label = {True: "true", False: "false"}.get(label, label) if isinstance(label, bool) else label
        if str(label) not in schema.classes:
            raise BadInput(f"{where}.label", str(label)[:60], "is not a class", nearest(str(label), schema.classes))
    elif not number:
        raise BadInput(f"{where}.label", str(label)[:60], "is not a finite number", "give the true value")
    return str(label) if schema.classes else float(label)
