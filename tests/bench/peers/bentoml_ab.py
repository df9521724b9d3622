"""BentoML, one worker: python -m bentoml serve tests.bench.peers.bentoml_ab:Bench --port PORT."""

from __future__ import annotations

import bentoml

from tests.bench.peers.ab import AB


@bentoml.service(workers=1, traffic={"timeout": 30})
class Bench:
    """The A/B as BentoML's documentation would write it; async, which is its faster form."""

    def __init__(self) -> None:
        self._ab = AB()

    @bentoml.api
    async def predict(self, rows: list[dict[str, float]], ctx: bentoml.Context) -> dict:
        """Predict and record."""
        return self._ab.answer(rows, ctx.request.headers["x-unit-id"])
