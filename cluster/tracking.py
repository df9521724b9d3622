"""Runs in MLflow: started, logged in batches, found again. Embedded by default: SQLite under the storage path."""

from __future__ import annotations

import logging
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlparse

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from cluster.storage import storage_path
from conf.compose import flat, to_yaml
from conf.errors import BadInput
from conf.schema import Cluster, Ground
from conf.schema import Tracking as TrackingConfig

KIND, NAME = "rungway.kind", "rungway.name"  # run tags: train, tune, trial, evaluate, pipeline; registered model
PARENT = "mlflow.parentRunId"
_METRICS, _PARAMS = 1000, 100  # MLflow's limits for one batch
_NO_PARAMS = ("overrides", "dataset.columns", "cluster", "search_space")

for _noisy in ("mlflow", "alembic", "matplotlib", "httpx"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)


class Run:
    """One MLflow run being written."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.id, self._client = run_id, client

    def log(self, steps: Sequence[tuple[int, float, Mapping[str, float]]]) -> None:
        """Log metrics of steps: (step, when in epoch seconds, metrics)."""
        metrics = [
            Metric(key, float(value), int(when * 1000), step)
            for step, when, of_step in steps
            for key, value in of_step.items()
        ]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self.id, metrics=metrics[start : start + _METRICS])

    def last_step(self, metric: str) -> int:
        """Return the last step that a metric was logged for, 0 where it was for none."""
        steps = [logged.step for logged in self._client.get_metric_history(self.id, metric)]
        return max(steps, default=0)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log metrics that belong to no step."""
        self._client.log_batch(self.id, metrics=[Metric(k, v, int(time.time() * 1000), 0) for k, v in values.items()])

    def tag(self, tags: Mapping[str, object]) -> None:
        """Set tags."""
        self._client.log_batch(self.id, tags=[RunTag(key, str(value)[:5000]) for key, value in tags.items()])

    def text(self, text: str, path: str) -> None:
        """Keep a text as an artifact."""
        self._client.log_text(self.id, text, path)

    def file(self, path: Path) -> None:
        """Keep a file as an artifact of its name."""
        self._client.log_artifact(self.id, str(path))

    def config(self, cfg: Ground) -> None:
        """Keep the whole config as config.yaml, what was said as overrides.txt, and its values as params."""
        self.text(to_yaml(cfg), "config.yaml")
        self.text("\n".join(cfg.overrides), "overrides.txt")
        self.params({key: str(value) for key, value in flat(cfg, _NO_PARAMS).items()})

    def params(self, values: Mapping[str, str]) -> None:
        """Keep what the run was given, to search by."""
        params = [Param(key, value[:6000]) for key, value in values.items()]
        for start in range(0, len(params), _PARAMS):
            self._client.log_batch(self.id, params=params[start : start + _PARAMS])

    def finish(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self.id, status)


class Tracking:
    """The tracking server (or SQLite file) of this process."""

    def __init__(self, uri: str, storage: Path, experiment: str | None) -> None:
        self.uri, self.storage, self._experiment = uri, storage, experiment
        self.client = MlflowClient(uri, registry_uri=uri)

    @contextmanager
    def run(
        self, name: str, kind: str, cfg: Ground, parent: str | None = None, begun: str | None = None
    ) -> Iterator[Run]:
        """Start a run of a registered model's name, or go on with the one begun; it ends as the block does.

        That is FINISHED, FAILED or KILLED.
        """
        run = self.start(name, kind, parent) if begun is None else self.resume(begun)
        with self.ending(run):
            if begun is None:
                run.config(cfg)
            yield run

    @contextmanager
    def ending(self, run: Run) -> Iterator[None]:
        """End a run that was started or reopened FINISHED, FAILED or KILLED as the block does."""
        try:
            yield
        except BaseException as error:
            with suppress(MlflowException):  # what went wrong says more than that it cannot be recorded
                run.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        run.finish("FINISHED")

    def start(self, name: str, kind: str, parent: str | None = None) -> Run:
        """Start a run without ending it."""
        tags = {KIND: kind, NAME: name, **({PARENT: parent} if parent else {})}
        started = self.client.create_run(self._experiment_id(name), tags=tags, run_name=f"{name}-{kind}")
        return Run(self.client, started.info.run_id)

    def reopen(self, run_id: str) -> Run:
        """Return a run that was started before, to write more to it."""
        return Run(self.client, run_id)

    def resume(self, run_id: str) -> Run:
        """Return a run that was started before, running again."""
        self.client.update_run(run_id, status="RUNNING")
        return Run(self.client, run_id)

    def find(self, said: str, kind: str, name: str | None = None, finished: bool = True) -> str:
        """Return the run id that was said; "latest" is the latest (finished) run of the kind (and name).

        Raises BadInput when there is none.
        """
        if said != "latest":
            try:
                return str(self.client.get_run(said).info.run_id)
            except MlflowException as error:
                raise BadInput("run", said, "is no run here", 'give a run id or "latest"') from error
        conditions = [f"tags.`{KIND}` = '{kind}'", *(["attributes.status = 'FINISHED'"] if finished else [])]
        conditions += [f"tags.`{NAME}` = '{name}'"] if name else []
        experiments = [e.experiment_id for e in self.client.search_experiments(view_type=ViewType.ACTIVE_ONLY)]
        found = self.client.search_runs(
            experiments, " and ".join(conditions), max_results=1, order_by=["attributes.start_time DESC"]
        )
        if not found:
            of_name = f" of {name}" if name else ""
            what = f"finished {kind} run" if finished else f"{kind} run"
            raise BadInput("run", said, f"there is no {what}{of_name}", f"start one: python -m jobs.{kind}")
        return str(found[0].info.run_id)

    def read_text(self, run_id: str, path: str) -> str:
        """Return a text artifact of a run; raises BadInput where there is none."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                return Path(self.client.download_artifacts(run_id, path, folder)).read_text()
        except (MlflowException, OSError) as error:
            raise BadInput("run", run_id, f"has no {path}", "name a run of the right kind") from error

    def artifact(self, run_id: str, path: str) -> Path:
        """Return an artifact as a local file, fetched under the storage path when it lies elsewhere."""
        top = urlparse(self.client.get_run(run_id).info.artifact_uri)
        if top.scheme == "file":
            return Path(unquote(top.path)) / path
        folder = self.storage / "fetched" / run_id
        folder.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(run_id, path, str(folder)))

    def ui_command(self) -> str:
        """Return the command that shows all of it in a browser."""
        return f'python -m mlflow ui --backend-store-uri "{self.uri}"'

    def _experiment_id(self, name: str) -> str:
        experiment = self._experiment or name
        with FileLock(self.storage / "experiments.lock"):
            found = self.client.get_experiment_by_name(experiment)
            if found is not None:
                return str(found.experiment_id)
            embedded = self.uri.startswith("sqlite:")
            location = (self.storage / "artifacts" / experiment).as_uri() if embedded else None
            return str(self.client.create_experiment(experiment, artifact_location=location))


def connect(tracking: TrackingConfig, cluster: Cluster) -> Tracking:
    """Connect to tracking.uri, or to SQLite under the storage path (made at the first call)."""
    storage = storage_path(cluster)
    if tracking.uri is not None:
        mlflow.set_tracking_uri(tracking.uri)
        return Tracking(tracking.uri, storage, tracking.experiment)
    database = storage / "mlflow.db"
    uri = f"sqlite:///{database}"
    with FileLock(storage / "mlflow.lock"):
        if not database.exists():
            _make(database)
    mlflow.set_tracking_uri(uri)
    return Tracking(uri, storage, tracking.experiment)


def _make(database: Path) -> None:
    """Make a new database under another name first: one that was killed half-way could never be opened."""
    half = database.with_suffix(".half")
    half.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{half}").search_experiments(max_results=1)
    half.replace(database)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for a writer
