"""One epoch, as it is reported."""

from __future__ import annotations

from dataclasses import dataclass

EPOCH, SAMPLES, OBJECTIVE, LAST = "epoch", "samples", "objective", "last"  # of an epoch's report


@dataclass(frozen=True)
class Epoch:
    """One epoch that is over.

    number: from 1; samples: rows trained on so far; objective: the selection metric of the weights kept so far, the
    worst value where it is not a number; last: the loop ends here.
    """

    number: int
    samples: int
    metrics: dict[str, float]
    objective: float
    last: bool

    def report(self) -> dict[str, float]:
        """Return the epoch as Ray is told of it.

        LAST marks the report after which a trial has finished by itself: a searcher sees a stopped trial as
        complete too, and only this marker tells them apart.
        """
        own = {EPOCH: self.number, SAMPLES: self.samples, OBJECTIVE: self.objective, LAST: self.last}
        return {**self.metrics, **own}
