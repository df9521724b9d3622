"""The pipeline's chain: one Ray for all steps, the config of each step, and the end of all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from contextlib import ExitStack
from dataclasses import replace
from types import FrameType, TracebackType

from cluster import tokens
from cluster.background import start_head, stop_head
from cluster.policy import overrides
from cluster.progress import Step
from cluster.registry import Version
from cluster.session import connect, find_address
from cluster.storage import VARIABLE, storage_path
from cluster.tracking import Tracking
from cluster.tracking import connect as connect_tracking
from conf.compose import compose
from conf.errors import BadInput
from conf.schema import EvaluateConfig, PipelineConfig, PromoteConfig, TrainConfig
from jobs.data.load import Data, default_name, real_rows
from jobs.evaluation.live import Served, by_variant, collect, send
from jobs.tuning.grammar import parse_space
from jobs.tuning.outcome import SearchResult
from jobs.tuning.searched import Search

OWN = ("requests", "keep", "resamples", "confidence", "serving", "traffic")  # keys that the steps do not have
BASELINE = ("model=linear", "optimizer.lr=1e-2")
DEPLOY_S = 180
INTERRUPTS = (signal.SIGTERM, signal.SIGINT)


class Chain:
    """Enter it to have one Ray for all steps; leaving it ends what was started, unless `keep=true`."""

    def __init__(self, cfg: PipelineConfig) -> None:
        self.cfg = cfg
        self.name = cfg.name or default_name(cfg.dataset)
        self._tokens = tokens.said(cfg.serving.http)  # spoilt ones end it before hours of work
        self.tracking: Tracking = connect_tracking(cfg.tracking, cfg.cluster)
        self._said = [override for override in cfg.overrides if _key(override).split(".")[0] not in OWN]
        self._ends, self._owns_head = ExitStack(), False

    def __enter__(self) -> Chain:
        """Start the background head where there is no Ray to join, and join it."""
        _take_interrupts()
        try:
            if find_address(self.cfg.cluster) is None:
                self._owns_head = True
                self._ends.callback(self._stop_head)
                start_head(self.cfg.cluster)
            self._ends.enter_context(connect(self.cfg.cluster))
        except BaseException:
            self._end()
            raise
        _take_interrupts()  # anew: Ray's own would skip what has to be ended
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End what this chain started."""
        self._end()

    def baseline(self) -> TrainConfig:
        """Return the linear baseline's config: what was said, but of model and optimizer."""
        common = [said for said in self._said if _key(said).split(".")[0] not in ("model", "optimizer", "scaling")]
        return self._train([*common, *BASELINE, "scaling=local"])

    def search(self) -> Search:
        """Return the search for the model: trials run in one process each."""
        cfg = self._train([said for said in self._said if _key(said).split(".")[0] != "scaling"])
        return Search(cfg, parse_space(self.cfg.search_space))

    def winner(self, found: SearchResult) -> TrainConfig:
        """Return the winner's config, on Ray Train as `scaling` says."""
        scaling = self.cfg.scaling
        on = [f"scaling={scaling.strategy}", f"scaling.num_workers={scaling.num_workers}"]
        return self._train([*found.overrides, *on, *(said for said in self._said if _key(said).startswith("scaling."))])

    def evaluation(self, run_id: str) -> EvaluateConfig:
        """Return the final evaluation of a run."""
        cfg = self.cfg
        return EvaluateConfig(
            run=run_id,
            final=True,
            resamples=cfg.resamples,
            confidence=cfg.confidence,
            tracking=cfg.tracking,
            cluster=cfg.cluster,
        )

    def promotion(self, version: Version | None) -> PromoteConfig:
        """Return the winner's promotion to challenger; the champion stays whoever it is."""
        assert version is not None, "the winner is registered"
        return PromoteConfig(
            name=self.name,
            version=str(version.number),
            alias="challenger",
            tracking=self.cfg.tracking,
            cluster=self.cfg.cluster,
        )

    def deploy(self) -> str:
        """Deploy in a process of its own (jobs and serve share only the registry) and return the URL."""
        said = [override for override in self.cfg.overrides if _key(override).split(".")[0] in ("serving", "tracking")]
        traffic = [f"traffic.{override}" for override in overrides(self.cfg.traffic)]
        if not self.cfg.keep:
            self._ends.callback(self._end_application)
        self._serve("deploy", [f"name={self.name}", *said, *traffic])
        http = self.cfg.serving.http
        return f"http://{http.host}:{http.port}/{self.name}"

    def exchange(self, data: Data, shown: Step) -> list[Served]:
        """Send real rows with feedback and return what each variant did, from the records."""
        cfg, storage = self.cfg, storage_path(self.cfg.cluster)
        http = cfg.serving.http
        requests = real_rows(cfg.dataset, cfg.split, cfg.requests, cfg.seed)
        url, tag = f"http://{http.host}:{http.port}/{self.name}", uuid.uuid4().hex[:8]
        latencies = send(url, requests, tag, shown, self._tokens)
        records = collect(storage, self.name, latencies, list(cfg.traffic.shadow))
        shown.done(f"{records.num_rows} predictions and their feedback recorded")
        return by_variant(records, data.schema, latencies, cfg.resamples, cfg.confidence)

    def _train(self, overrides: list[str]) -> TrainConfig:
        made = compose("train", overrides, TrainConfig)
        return replace(made, name=self.name)

    def _serve(self, command: str, overrides: list[str]) -> None:
        storage = {VARIABLE: str(storage_path(self.cfg.cluster))}
        ended = subprocess.run(
            [sys.executable, "-m", f"serve.{command}", *overrides],
            env={**os.environ, **storage},
            capture_output=True,
            text=True,
            timeout=DEPLOY_S,
            check=False,
        )
        if ended.returncode != 0:
            why = ended.stderr.strip().splitlines()[-1:] or ["no word"]
            raise BadInput(
                f"serve.{command}", self.name, f"failed ({why[0].rstrip('.')})", "mend that and run it again"
            )

    def _end_application(self) -> None:
        """End the application where its Ray stays up; where the head is ours it ends with it."""
        if self._owns_head:
            return
        self._serve("stop", [f"name={self.name}"])

    def _end(self) -> None:
        """End what was started; an interrupt that comes meanwhile changes nothing: it ends already."""
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)
        self._ends.close()
        _take_interrupts()

    def _stop_head(self) -> None:
        if not self.cfg.keep:
            stop_head(self.cfg.cluster)


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").split("@")[0]


def _take_interrupts() -> None:
    """Let SIGTERM and SIGINT end the chain in order, also where a shell that put it in the background ignored them."""
    for number in INTERRUPTS:
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
