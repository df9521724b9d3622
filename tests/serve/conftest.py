"""Two registered versions, and the application that serves them, driven as the ASGI application it is."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.registry import Registry
from cluster.tracking import connect
from conf.schema import Cluster, DeployConfig
from conf.service import Serving, Traffic
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


def figures(answer: httpx.Response) -> Counter:
    """Return metric -> labels -> value of a text that Prometheus can read."""
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    found = Counter({(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples})
    assert len(found) == len(samples), "a series is there twice"
    return found


def total(found: Counter, name: str, **labels: str) -> float:
    """Sum the series of a metric that have these labels."""
    return sum(value for (of, *said), value in found.items() if of == name and labels.items() <= set(said))


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


@pytest.fixture
def second(served) -> Iterator[Served]:
    """Serve the same from another replica over the same storage."""
    application = Application(served.cfg)
    yield Served(served.cfg, application, served.registry, served.rows)
    application.close()
