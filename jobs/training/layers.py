"""What happens in each layer: shapes on the way forward, gradients on the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

DEPTH = 2  # parts of a parameter's name that name its layer


def layer(parameter: str) -> str:
    """Return the layer of a parameter: `body.0` for `body.0.0.weight`, `bias` for a parameter of the network itself."""
    return ".".join(parameter.split(".")[:-1][:DEPTH]) or parameter


def gradient_norms(network: nn.Module, whole: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Return the norm of each layer's gradient; `whole` gives the value of a norm of sharded gradients."""
    squares: dict[str, float] = {}
    for name, weights in network.named_parameters():
        if weights.grad is not None:
            norm = float(whole(torch.linalg.vector_norm(weights.grad)))
            squares[layer(name)] = squares.get(layer(name), 0.0) + norm**2
    return {name: square**0.5 for name, square in squares.items()}


def say_shapes(network: nn.Module, say: Callable[[str], None]) -> None:
    """Say, at the network's next call, what goes into each of its modules and what comes out."""
    handles: list[RemovableHandle] = []

    def heard(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(_module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            weights = sum(p.numel() for p in module.parameters(recurse=False))
            own = f", {weights:,} weights" if weights else ""
            say(f"  {name} {type(module).__name__}: {_shapes(given)} -> {_shapes((made,))}{own}")

        return hook

    def over(*_: Any) -> None:
        for handle in handles:
            handle.remove()

    for name, module in network.named_modules():
        if name:
            handles.append(module.register_forward_hook(heard(name, module)))
    handles.append(network.register_forward_hook(over))


def _shapes(values: tuple[Any, ...]) -> str:
    return ", ".join("x".join(map(str, v.shape)) for v in values if isinstance(v, Tensor)) or "-"
