"""Evaluate a registered version as it would be served: its ONNX graph on raw columns."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cluster.bundle import Bundle
from cluster.registry import Registry, Version
from cluster.tracking import NAME, Run, Tracking
from conf.compose import from_yaml
from conf.errors import BadInput
from conf.schema import EvaluateConfig, TrainConfig
from jobs.data.load import Part, load, open_sealed
from jobs.evaluation.metrics import Interval, evaluate, statistics
from jobs.evaluation.report import Evaluated, page

OPENED = "sealed_opened"  # tag of the training run: how often its sealed parts were opened


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. metrics: part -> metric -> interval; report: the HTML page."""

    run_id: str
    version: Version
    metrics: dict[str, dict[str, Interval]]
    report: Path

    def lines(self) -> list[str]:
        """Return a table of all parts, one line each."""
        said = []
        for part, metrics in self.metrics.items():
            shown = "   ".join(f"{name} {interval}" for name, interval in metrics.items())
            said.append(f"{self.version.name} version {self.version.number}  {part:<10}  {shown}")
        return said


def evaluate_run(cfg: EvaluateConfig, tracking: Tracking) -> Evaluation:
    """Evaluate the version of a training run on validation, or with `final` on its sealed parts too.

    Each opening of the sealed parts is counted and recorded with the run. Raises BadInput for a run without version.
    """
    run_id = tracking.find(cfg.run, "train", cfg.name)
    version = _version(tracking, run_id)
    trained = from_yaml(tracking.read_text(run_id, "config.yaml"), TrainConfig)
    data = load(trained.dataset, trained.split)
    parts: dict[str, Part] = {"validation": data.validation}
    run, notes = tracking.reopen(run_id), []
    if cfg.final:
        notes.append(_record_opening(tracking, run))
        parts |= open_sealed(trained.dataset, trained.split)
    notes += [
        f"{name}: a sample of {len(part.target):,} of its {data.sizes[name]:,} rows."
        for name, part in parts.items()
        if len(part.target) < data.sizes[name]
    ]
    bundle = Bundle.load(version.folder)
    if bundle.schema != data.schema:
        bound = "was trained on data that read differently today"
        raise BadInput("run", run_id, bound, "train again, or restore the data of that run")
    evaluated = {name: _evaluated(bundle, part, cfg) for name, part in parts.items()}
    metrics = {name: part.metrics for name, part in evaluated.items()}
    run.metrics({f"{part}_{name}": v.value for part, of_part in metrics.items() for name, v in of_part.items()})
    subtitle = f"{data.schema.task} of {data.schema.target}, version {version.number} ({version.semver}), run {run_id}"
    interval = f"Intervals: {cfg.confidence:.0%}, {cfg.resamples} bootstrap resamples of the rows."
    run.text(page(version.name, subtitle, bundle.schema, evaluated, [interval, *notes]), "report.html")
    return Evaluation(run_id, version, metrics, tracking.artifact(run_id, "report.html"))


def _evaluated(bundle: Bundle, part: Part, cfg: EvaluateConfig) -> Evaluated:
    answers = bundle.predict(part.raw)
    found = statistics(bundle.schema.task, answers, part.target)
    metrics = evaluate(found, len(part.target), cfg.resamples, cfg.confidence, seed=0)
    return Evaluated(answers, part.target, metrics)


def _version(tracking: Tracking, run_id: str) -> Version:
    """Return the version that a run registered."""
    name = tracking.client.get_run(run_id).data.tags.get(NAME, "")
    found = tracking.client.search_model_versions(f"run_id = '{run_id}'")
    if not found:
        raise BadInput("run", run_id, "registered no version", "train it with register=true")
    return Registry(tracking).resolve(name, str(found[0].version))


def _record_opening(tracking: Tracking, run: Run) -> str:
    """Count and record that the sealed parts are opened, before they are; return the words for it."""
    count = int(tracking.client.get_run(run.id).data.tags.get(OPENED, "0")) + 1
    when = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    run.tag({OPENED: count, f"{OPENED}.{count}": f"{when} by {getpass.getuser()}"})
    times = "the first time" if count == 1 else f"{count} times; choices made after the first are no longer blind"
    return f"The sealed parts of this run have been opened {times}."
