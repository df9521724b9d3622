"""Start Serve on the connected Ray, put an application up, and wait until it answers over HTTP."""

from __future__ import annotations

import errno
import json
import logging
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any
from urllib.error import URLError

import ray
from omegaconf import OmegaConf
from ray import serve
from ray.serve import RunTarget
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.config import HTTPOptions

from cluster.storage import storage_path
from cluster.tokens import ADMIN, KEY, VARIABLE, bearer, said
from conf.compose import to_yaml
from conf.errors import BadInput
from conf.schema import DeployConfig
from conf.service import Http, Traffic
from serve.fallback import FALLBACK, fallback_application
from serve.isolated import hosted
from serve.replica import model_application

ANSWER_S, SETTLED_S = 60.0, 3.0  # SETTLED_S: until replicas have looked again at what was refused before
LOCAL = ("127.0.0.1", "localhost")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(name: str) -> None:
    """Raise BadInput for a name that is no part of a path, of a folder and of HAProxy's configuration."""
    if not _NAME.fullmatch(name) or name == FALLBACK:
        bound = "cannot be served under its name" if name != FALLBACK else "is the name of what answers at the root"
        raise BadInput("name", name, bound, "register the model under letters, digits, dots, _ and -")


def check_port(http: Http) -> None:
    """Raise BadInput when the port is taken, or the host is not this machine alone and no token is asked for."""
    _check_host(http)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((http.host, http.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise BadInput("serving.http.port", http.port, "is taken", "give another port") from error
            bound = f"cannot be listened on ({error.strerror or error})"
            raise BadInput("serving.http.host", http.host, bound, f"use {LOCAL[0]}") from error


def _check_host(http: Http) -> None:
    if http.host not in LOCAL and http.token_file is None:
        bound = "would answer everybody on the network without a token"
        raise BadInput("serving.http.host", http.host, bound, f"give serving.http.token_file, or use {LOCAL[0]}")


def start(cfg: DeployConfig) -> str:
    """Put the model's application up and return its URL once it answers.

    Where it runs already with the same settings nothing is restarted: its replicas follow the registry by themselves.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    http, record = cfg.serving.http, storage_path(cfg.cluster) / "serve.json"
    running = serve.status().applications
    settings = dict(json.loads(record.read_text())) if running and record.exists() else {}
    if not running:
        check_port(http)
    else:
        _check_address(http, settings)
        if cfg.name in running:
            _check_tokens(cfg, settings)
    own = to_yaml(replace(cfg, overrides=[], traffic=Traffic()))  # the policy is the registry's
    own += f"# in deployments of their own: {' '.join(hosted(cfg))}\n"
    wanted = [] if FALLBACK in running else [RunTarget(fallback_application(), FALLBACK, "/")]
    if cfg.name not in running or settings.get(cfg.name) != own:
        wanted.append(RunTarget(model_application(cfg), cfg.name, f"/{cfg.name}"))
    if wanted:
        limit = storage_path(cfg.cluster) / "serving" / cfg.name / "max_ongoing"  # HAProxy's configuration reads it
        limit.parent.mkdir(parents=True, exist_ok=True)
        limit.write_text(str(cfg.serving.max_ongoing))
        with _proxies_starting(HTTPOptions(host=http.host, port=http.port)):
            serve.run_many(wanted)
    record.write_text(json.dumps({**settings, "host": http.host, "port": http.port, cfg.name: own}))
    url = f"http://{http.host}:{http.port}/{cfg.name}"
    _wait_for_answer(f"{url}/healthz", cfg)
    return url


@contextmanager
def _proxies_starting(options: HTTPOptions) -> Iterator[None]:
    """Start Serve; go on as soon as its controller is there, while its proxies start, and end when all are."""
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(serve.start, http_options=options)
        while not (started.done() or _controller_is_there()):
            time.sleep(0.05)
        yield
        started.result()


def _controller_is_there() -> bool:
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def _check_address(http: Http, settings: dict[str, Any]) -> None:
    """Raise BadInput where Serve listens elsewhere, or for everybody and no token is asked for."""
    for key, wanted in (("host", http.host), ("port", http.port)):
        if (there := settings.get(key, wanted)) != wanted:
            bound = f"cannot be: Serve runs on {there}"
            raise BadInput(f"serving.http.{key}", wanted, bound, f"give that {key}, or stop it")
    _check_host(http)


def _check_tokens(cfg: DeployConfig, settings: dict[str, Any]) -> None:
    """Raise BadInput where a running application would be open by its tokens being left out."""
    before = OmegaConf.create(settings.get(cfg.name, "{}"))
    if cfg.serving.http.token_file is None and OmegaConf.select(before, "serving.http.token_file") is not None:
        bound = f"is left out, and {cfg.name} asks for tokens"
        remedy = f"give it (or {VARIABLE}) again, or run: python -m serve.stop name={cfg.name}"
        raise BadInput(KEY, None, bound, remedy)


def end(name: str) -> bool:
    """End one application; where no other is left, Serve itself. Return whether it was there."""
    running = set(serve.status().applications)
    if name not in running:
        return False
    if running <= {name, FALLBACK}:
        serve.shutdown()
    else:
        serve.delete(name)
    return True


def _wait_for_answer(url: str, cfg: DeployConfig) -> None:
    """Wait until the application answers, with this policy."""
    begun, why, policy = time.monotonic(), "another policy is live", asdict(cfg.traffic)
    shown = bearer(said(cfg.serving.http), ADMIN)
    while time.monotonic() < begun + ANSWER_S:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=shown), timeout=5) as answer:
                health = json.load(answer)
        except (URLError, ConnectionError, TimeoutError, ValueError) as error:
            why = str(error)
        else:
            if (
                health["policy"] == policy
                and set(health["shadow"]) == set(cfg.traffic.shadow)
                and not health["refused"]
            ):
                return
            seen = time.monotonic() > begun + 2 * cfg.serving.poll_s + SETTLED_S
            if health["refused"] and seen:  # before, it may be about what was
                raise BadInput("serving", url, health["refused"], "mend that; the previous variants keep answering")
        time.sleep(0.05)
    bound = f"did not answer as asked within {ANSWER_S:g} s ({why})"
    raise BadInput("serving", url, bound, "see the head's log under the storage path")
