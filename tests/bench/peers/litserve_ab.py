"""LitServe, one worker: python -m tests.bench.peers.litserve_ab PORT.

It hands a model no headers, so that the unit is in the body.
"""

from __future__ import annotations

import sys

import litserve

from tests.bench.peers.ab import AB


class Api(litserve.LitAPI):
    """The A/B as LitServe's documentation would write it."""

    def setup(self, device: str) -> None:
        """Load both models in the worker."""
        self._ab = AB()

    def decode_request(self, request) -> tuple[list[dict[str, float]], str]:
        """Return rows and unit (a type here would be taken for a query parameter)."""
        return request["rows"], request["unit"]

    def predict(self, x: tuple[list[dict[str, float]], str]) -> dict[str, object]:
        """Predict and record."""
        return self._ab.answer(*x)

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        """Return what is answered."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
