"""Fields that carry their bounds, and the check that reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field, fields, is_dataclass
from typing import Any

from conf.errors import BadInput, nearest


def one_of(default: str, allowed: Sequence[str]) -> Any:
    """Return a field that holds one of the allowed words."""
    return field(default=default, metadata={"allowed": tuple(allowed)})


def several_of(allowed: Sequence[str]) -> Any:
    """Return a list field of allowed words, all of them by default."""
    return field(default_factory=lambda: list(allowed), metadata={"allowed_items": tuple(allowed)})


def whole(default: int | None, **bounds: float) -> Any:
    """Return an integer field with bounds `ge`, `gt`, `le`, `lt`."""
    return field(default=default, metadata=bounds)


def within(default: float | None, **bounds: float) -> Any:
    """Return a float field with bounds `ge`, `gt`, `le`, `lt`."""
    return field(default=default, metadata=bounds)


_WORDS = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}


def _holds(value: float, rule: str, bound: float) -> bool:
    if math.isnan(value):
        return False
    return {"ge": value >= bound, "gt": value > bound, "le": value <= bound, "lt": value < bound}[rule]


def check_bounds(config: Any, prefix: str = "") -> None:
    """Raise BadInput for the first field of a (nested) dataclass whose value breaks its bounds."""
    for item in fields(config):
        key, value = f"{prefix}{item.name}", getattr(config, item.name)
        if is_dataclass(value):
            check_bounds(value, f"{key}.")
        elif isinstance(value, dict):
            for name, inner in value.items():
                if is_dataclass(inner):
                    check_bounds(inner, f"{key}.{name}.")
        elif "allowed" in item.metadata:
            _check_word(key, value, item.metadata["allowed"])
        elif "allowed_items" in item.metadata:
            for word in value:
                _check_word(key, word, item.metadata["allowed_items"])
        else:
            _check_number(key, value, {k: v for k, v in item.metadata.items() if k in _WORDS})


def _check_word(key: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise BadInput(key, value, "is not a choice", nearest(str(value), allowed))


def _check_number(key: str, value: Any, bounds: dict[str, float]) -> None:
    if isinstance(value, int | float) and not all(_holds(value, rule, bound) for rule, bound in bounds.items()):
        allowed = " and ".join(f"{_WORDS[rule]} {bound:g}" for rule, bound in bounds.items())
        raise BadInput(key, value, "is out of range", f"give a value {allowed}")
