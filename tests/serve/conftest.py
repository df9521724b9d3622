"""Two registered versions, and the application that serves them, driven as the ASGI application it is."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from cluster.registry import Registry
from cluster.tracking import connect
from conf.schema import Cluster, DeployConfig, Serving, Traffic
from jobs.train import train
from serve.app import Application

AB = Traffic("ab", {"champion": 0.5, "challenger": 0.5})


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ask(application: Any, method: str, path: str, **said: Any) -> httpx.Response:
    """Send one request to an ASGI application."""

    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(application, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **said)

    return asyncio.run(once())


@dataclass
class Served:
    """An application, its registry, and real rows."""

    cfg: DeployConfig
    application: Application
    registry: Registry
    rows: list[dict[str, object]]

    def ask(self, method: str, path: str, **said: Any) -> httpx.Response:
        """Send one request."""
        return ask(self.application, method, f"/{self.cfg.name}{path}", **said)


@pytest.fixture
def served(houses: Callable[..., Any], tmp_path) -> Iterator[Served]:
    """Serve two versions 50/50."""
    cfg = houses("name=houses")
    cfg.cluster = Cluster(storage=str(tmp_path))
    registry = Registry(connect(cfg.tracking, cfg.cluster))
    train(cfg)
    cfg.seed = 1
    second = train(cfg).version
    registry.set_alias("houses", "challenger", second.number)
    registry.write_policy("houses", AB)
    deploy = DeployConfig(
        cluster=cfg.cluster, name="houses", serving=Serving(max_rows=5, max_body_mb=0.01, poll_s=0.05)
    )
    application = Application(deploy)
    from cluster.bundle import Bundle

    yield Served(deploy, application, registry, Bundle.load(second.folder).example())
    application.close()
