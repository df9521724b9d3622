"""A served model with two replicas behind HAProxy, and clients that never stop asking."""

import csv
import http.client
import io
import json
import re
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.bundle import Bundle
from cluster.registry import Registry
from cluster.storage import VARIABLE

CLIENTS = 4
HAPROXY = "haproxy.cfg"  # is in its command line


@dataclass
class Load:
    """Clients that ask without a pause and without asking twice; what they were answered."""

    port: int
    rows: list[dict[str, object]]
    clients: int = CLIENTS
    answers: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"content-type": "application/json"}
        i = 0
        while not self._stop.is_set():
            i = (i + 1) % len(self.rows)
            try:
                connection.request("POST", "/houses/predict", json.dumps({"rows": [self.rows[i]]}), headers)
                answer = connection.getresponse()
                said = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            if answer.status != 200:
                self.failures.append(f"{answer.status} {said[:200]!r}")
            else:
                self.answers.append((i, json.loads(said)))
        connection.close()

    def until(self, more: int) -> None:
        """Wait for so many answers more."""
        wanted, deadline = len(self.answers) + more, time.monotonic() + 60
        while len(self.answers) < wanted:
            assert time.monotonic() < deadline, self.failures[-1:]
            time.sleep(0.01)


@dataclass
class House:
    """What is served, by two replicas behind HAProxy."""

    registry: Registry
    storage: Path
    port: int

    def commands(self, part: str) -> dict[int, str]:
        """Return its processes by pid with their command lines, of those that have something in it."""
        found = {}
        own = f"{VARIABLE}={self.storage}\0".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if part in command and own in (process / "environ").read_bytes():
                    found[int(process.name)] = command
            except OSError:
                continue  # it has just ended
        return found

    def pids(self, part: str) -> list[int]:
        """Return the pids of these processes."""
        return list(self.commands(part))

    def replicas(self) -> list[int]:
        """Return the pids of the model's replicas."""
        return self.pids("ray::ServeReplica:houses")

    def up(self) -> int:
        """Return how many replicas HAProxy sends requests to, by its statistics."""
        (command, *_) = self.commands(HAPROXY).values()
        config = Path(command.split(" -f ")[1].split(" -")[0])
        port = re.search(r"listen stats\s+bind 127\.0\.0\.1:(\d+)", config.read_text())
        if port is None:
            return 0  # it is being written
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/stats;csv", timeout=5) as answer:
            rows = csv.DictReader(io.TextIOWrapper(answer))
            return sum(
                row["# pxname"] == "http-houses" and row["svname"].startswith("SERVE_REPLICA") and row["status"] == "UP"
                for row in rows
            )

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Ask once; a connection that fails has the status 0."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            said = None if body is None else json.dumps(body)
            connection.request(method, f"/houses{path}", said, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            return 0, {"error": repr(error)}
        finally:
            connection.close()

    def load(self, clients: int = CLIENTS) -> Load:
        """Return clients for it."""
        return Load(self.port, Bundle.load(self.registry.resolve("houses", "1").folder).example(), clients)
