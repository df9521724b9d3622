"""What the person watching sees: one live line per step, rewritten on a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

EVERY_S = 30.0  # between two lines of one step where nothing can be rewritten


def say(lines: Iterable[str] | str) -> None:
    """Print lines for the person watching."""
    for line in [lines] if isinstance(lines, str) else lines:
        sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class Step:
    """One step being done: `update` changes its line, `done` says what came out of it."""

    def __init__(self, title: str) -> None:
        self._title, self._start, self._shown = title, time.monotonic(), time.monotonic()
        self._live = sys.stderr.isatty()
        self.outcome = ""
        self._write("...")

    def update(self, text: str) -> None:
        """Show how far it is."""
        if self._live:
            self._write(text)
        elif time.monotonic() - self._shown >= EVERY_S:
            self._shown = time.monotonic()
            self._write(text)

    def done(self, outcome: str) -> None:
        """Set what the step's last line says."""
        self.outcome = outcome

    def end(self, outcome: str) -> None:
        """Write the last line."""
        self._write(outcome)
        if self._live:
            sys.stderr.write("\n")

    def _write(self, text: str) -> None:
        line = f"{self._title}  {text}  ({time.monotonic() - self._start:.0f} s)"
        sys.stderr.write(f"\r\x1b[2K{line}" if self._live else f"{line}\n")
        sys.stderr.flush()


_numbers: ContextVar[Iterator[str] | None] = ContextVar("numbers", default=None)


@contextmanager
def numbered(total: int) -> Iterator[None]:
    """Number the steps of the block: [1/total], [2/total], ..."""
    before = _numbers.set(f"[{i}/{total}] " for i in itertools.count(1))
    try:
        yield
    finally:
        _numbers.reset(before)


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Show a step while its block runs: its last line says what `done` was given, or that it failed."""
    numbers = _numbers.get()
    shown = Step(f"{next(numbers)}{title}" if numbers else title)
    try:
        yield shown
    except BaseException:
        shown.end("failed")
        raise
    shown.end(shown.outcome or "done")
