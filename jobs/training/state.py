"""A training as it stands: tensors by name, and plain values; what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


@dataclass(frozen=True)
class LoopState:
    """tensors: by dotted name (a worker may hold a part of one); plain: what JSON can say, the same on all workers."""

    tensors: dict[str, Tensor]
    plain: dict[str, Any]


def sharded(value: Tensor) -> bool:
    """Tell whether a worker holds only a part of a tensor (PyTorch's DTensor, whose import takes a while)."""
    return hasattr(value, "full_tensor")


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under `prefix.name`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def nested(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors by their first part, then by the rest of their names."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        first, _, rest = name.partition(".")
        found.setdefault(first, {})[rest] = value
    return found


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an optimizer's tensors as `<index of the weights>.<name>`, and the rest of its state."""
    whole = optimizer.state_dict()
    tensors, rest = dict[str, Tensor](), dict[str, dict[str, object]]()
    for index, of_one in whole["state"].items():
        for name, value in of_one.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                rest.setdefault(str(index), {})[name] = value
    return tensors, {"groups": whole["param_groups"], "rest": rest}


def load_optimizer_state(optimizer: Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Give an optimizer what `optimizer_state` returned."""
    state: dict[int, dict[str, object]] = {int(index): dict(of_one) for index, of_one in plain["rest"].items()}
    for name, value in tensors.items():
        index, _, own = name.partition(".")
        state.setdefault(int(index), {})[own] = value
    optimizer.load_state_dict({"state": state, "param_groups": [dict(group) for group in plain["groups"]]})
    optimizer._opt_called = True  # type: ignore[attr-defined]  # or PyTorch warns of a schedule that steps first


def random_state() -> dict[str, Tensor]:
    """Return the state of this process's random streams."""
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {"cpu": torch.get_rng_state(), **({"cuda": torch.cuda.get_rng_state()} if on_gpu else {})}


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Go on from what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
