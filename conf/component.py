"""Making an object from a component yaml (`_target_` and its arguments)."""

from __future__ import annotations

from typing import TypeVar

from hydra.utils import instantiate

from conf.errors import BadInput
from conf.schema import Component

T = TypeVar("T")


def make(group: str, component: Component, kind: type[T], **arguments: object) -> T:
    """Return the object of a component of a group; raises BadInput where it cannot be built or is of another kind."""
    target = component.get("_target_")
    try:
        made = instantiate(component, **arguments)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, BadInput):
            cause = cause.__cause__
        if isinstance(cause, BadInput):
            raise cause from error
        why = " ".join(str(error.__cause__ or error).split())
        raise BadInput(group, target, f"cannot be built ({why})", f"see conf/{group}") from error
    if not isinstance(made, kind):
        raise BadInput(f"{group}._target_", target, f"makes no {kind.__name__}", f"see conf/{group}")
    return made
