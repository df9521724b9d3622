"""Start Serve on the connected Ray, put an application up, and wait until it answers over HTTP."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from urllib.error import URLError

from ray import serve
from ray.serve.config import HTTPOptions

from cluster.storage import storage_path
from conf.errors import BadInput
from conf.schema import DeployConfig, Http
from serve.replica import FALLBACK, fallback_application, model_application

ANSWER_S = 60.0
LOCAL = ("127.0.0.1", "localhost", "::1")


def check_port(http: Http) -> None:
    """Raise BadInput when the port is taken, or the host is not this machine alone."""
    if http.host not in LOCAL:
        bound = "would answer everybody on the network without a token"
        raise BadInput("serving.http.host", http.host, bound, f"use {LOCAL[0]} behind a proxy of your own")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((http.host, http.port))
        except OSError as error:
            raise BadInput("serving.http.port", http.port, "is taken", "give another port") from error


def start(cfg: DeployConfig) -> str:
    """Put the model's application up (in place where it runs already) and return its URL once it answers."""
    http = cfg.serving.http
    record = storage_path(cfg.cluster) / "serve.json"
    running = serve.status().applications
    if not running:
        check_port(http)
        record.write_text(json.dumps({"port": http.port}))
    elif record.exists() and (port := json.loads(record.read_text())["port"]) != http.port:
        raise BadInput("serving.http.port", http.port, f"cannot be: Serve runs on {port}", f"say {port}, or stop it first")
    serve.start(http_options=HTTPOptions(host=http.host, port=http.port))
    if FALLBACK not in running:
        serve.run(fallback_application(), name=FALLBACK, route_prefix="/", blocking=False)
    serve.run(model_application(cfg), name=cfg.name, route_prefix=f"/{cfg.name}", blocking=False)
    url = f"http://{http.host}:{http.port}/{cfg.name}"
    _wait_for_answer(f"{url}/healthz")
    return url


def _wait_for_answer(url: str) -> None:
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if json.load(answer)["status"] == "ok":
                    return
        except (URLError, ConnectionError, TimeoutError, ValueError) as error:
            if time.monotonic() > deadline:
                bound = f"did not answer within {ANSWER_S:g} s ({error})"
                raise BadInput("serving", url, bound, "see the head's log under the storage path") from error
        time.sleep(0.05)
