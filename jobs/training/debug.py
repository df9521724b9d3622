"""`debug=true`: a few batches in one process, with every shape and gradient said aloud, and anomalies found."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.progress import say
from conf.schema import Scaling, TrainConfig
from jobs.training.epoch import Epoch
from jobs.training.layers import gradient_norms, say_shapes

if TYPE_CHECKING:
    from jobs.training.loop import Loop

EPOCHS, STEPS = 2, 5


def debugged(cfg: TrainConfig) -> TrainConfig:
    """Return the config of a debugging run: a few steps, one process, nothing compiled, nothing registered."""
    training = replace(
        cfg.training,
        epochs=min(EPOCHS, cfg.training.epochs),
        steps_per_epoch=min(STEPS, cfg.training.steps_per_epoch or STEPS),
        compile=False,
    )
    return replace(cfg, training=training, scaling=Scaling(), register=False)


class Aloud:
    """A watcher that says what each step did to the gradients of each layer."""

    def begin(self, loop: Loop) -> None:
        """Say the shapes at the first step."""
        say(f"{loop.parameters():,} weights in the network; the first batch goes through it:")
        say_shapes(loop.network, say)

    def step_over(self, loop: Loop) -> None:
        """Say the gradients (after clipping)."""
        epoch, step = loop.position
        norms = gradient_norms(loop.network, lambda norm: norm)
        said = ", ".join(f"{name} {norm:.2e}" for name, norm in norms.items())
        say(f"epoch {epoch + 1} step {step}: gradient norms {said}")

    def epoch_over(self, loop: Loop, epoch: Epoch) -> None:
        """Say the epoch's metrics."""
        say(f"epoch {epoch.number}: " + ", ".join(f"{name} {value:.4g}" for name, value in epoch.metrics.items()))
