"""A real deployment with tokens on every address: what is refused at which port, and where no token is to be found."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.background import running_head
from cluster.ports import free_port
from cluster.tokens import VARIABLE
from conf.schema import Cluster
from jobs.train import train
from tests.serve.conftest import until

ROOT = Path(__file__).parents[2]
SECRET = "0123456789abcdef"
LINES = "".join(f"{role} {role}-{SECRET}\n" for role in ("predict", "feedback", "admin"))
ELSEWHERE = "127.0.0.2"  # this machine by another of its addresses
SEEN = """
import sys
from pathlib import Path
import ray
from cluster.session import connect
from conf.schema import Cluster
with connect(Cluster(storage=sys.argv[1])):
    from ray.util.state import list_actors, list_jobs, list_workers
    print([each(detail=True, limit=1000) for each in (list_actors, list_jobs, list_workers)])
    from ray import serve
    print(serve.status())
    from ray.serve.context import _get_global_client
    print(_get_global_client().get_serve_details())
    logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"
    print([path.read_text(errors="replace") for path in logs.rglob("*") if path.is_file()])
"""


@dataclass
class House:
    """What is served."""

    storage: Path
    port: int

    def command(self, name: str, *said: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of serving."""
        http = [f"serving.http.port={self.port}", "serving.http.host=0.0.0.0"]
        of_deploy = [*http, "cluster.num_cpus=2", "name=houses"] if name == "deploy" else []
        call = [sys.executable, "-m", f"serve.{name}", f"cluster.storage='{self.storage}'", *of_deploy, *said]
        environment = {**os.environ, **variables}
        return subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    def status(self, port: int, secret: str = "") -> int:
        """Return what /v2 answers at one of the ports."""
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        return httpx.get(f"http://{ELSEWHERE}:{port}/houses/v2", headers=headers).status_code

    def proxy(self) -> str:
        """Return the configuration of its HAProxy."""
        (ours,) = [
            text
            for path in Path("/tmp/haproxy-serve").glob("*/haproxy.cfg")
            if f"bind *:{self.port}\n" in (text := path.read_text())
        ]
        return ours


@pytest.fixture
def house(houses: Callable[..., Any], tmp_path: Path) -> Iterator[House]:
    cfg = houses("name=houses")
    cfg.cluster = Cluster(storage=str(tmp_path), num_cpus=2)
    train(cfg)
    house = House(tmp_path, free_port())
    try:
        made = house.command("deploy", **{VARIABLE: LINES})
        assert made.returncode == 0, made.stdout + made.stderr
        assert '/predict -H "authorization: Bearer $TOKEN" -H' in made.stdout
        assert SECRET not in made.stdout + made.stderr
        yield house
    finally:
        assert house.command("stop").returncode == 0


def test_it_is_guarded_at_every_port_and_shows_no_token(house: House) -> None:
    replicas = [int(port) for port in re.findall(r"server SERVE_REPLICA_houses\S* 127\.0\.0\.1:(\d+)", house.proxy())]
    assert len(replicas) == 1
    for port in (house.port, *replicas):
        assert [house.status(port), house.status(port, f"feedback-{SECRET}")] == [401, 403]
        assert house.status(port, f"predict-{SECRET}") == 200
    own = re.findall(r"(?:frontend prometheus|listen stats)\s+bind 127\.0\.0\.1:(\d+)", house.proxy())
    assert len(own) == 2
    for port in map(int, own):
        socket.create_connection(("127.0.0.1", port), 5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((ELSEWHERE, port), 5)
    _check_no_token(house)
    _check_redeploys(house)


def _check_no_token(house: House) -> None:
    kept = house.storage / "serving" / "houses" / "tokens"
    assert SECRET in kept.read_text()
    files = [path for path in house.storage.rglob("*") if path.is_file() and path != kept]
    assert {"serve.json", "head.log", "mlflow.db"} <= {path.name for path in files}
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    seen = subprocess.run(
        [sys.executable, "-c", SEEN, str(house.storage)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for said in ("ServeReplica:houses:houses", "DeploymentStatus.HEALTHY", "/houses", "Controller starting"):
        assert said in seen
    assert SECRET not in seen
    head = running_head(house.storage)
    assert head is not None
    pids = subprocess.run(["ps", "-o", "pid=", "--sid", str(head.pid)], capture_output=True, text=True, check=True)
    environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in pids.stdout.split()]
    assert any(b"RUNGWAY_STORAGE" in environment for environment in environments)
    assert not [environment for environment in environments if SECRET.encode() in environment]


def _check_redeploys(house: House) -> None:
    """Tokens left out are refused, others are taken without a restart."""
    pid = json.loads((house.storage / "head.json").read_text())["pid"]

    def replica() -> str:
        listed = subprocess.run(
            ["ps", "-o", "pid=,cmd=", "--sid", str(pid)], capture_output=True, text=True, check=True
        )
        (line,) = [line for line in listed.stdout.splitlines() if "ray::ServeReplica:houses" in line]
        return line

    before = replica()
    for said, sentence in (
        ((), "serving.http.host: '0.0.0.0' would answer everybody on the network without a token"),
        (("serving.http.host=127.0.0.1",), "serving.http.host: '127.0.0.1' cannot be: Serve runs on 0.0.0.0"),
    ):
        refused = house.command("deploy", *said)
        assert (refused.returncode, sentence in refused.stderr) == (2, True), refused.stderr
    assert house.command("deploy", **{VARIABLE: f"predict other-{SECRET}"}).returncode == 0
    until(lambda: house.status(house.port, f"other-{SECRET}") == 200)
    until(lambda: house.status(house.port, f"predict-{SECRET}") == 401)
    assert replica() == before
