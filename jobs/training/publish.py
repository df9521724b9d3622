"""From an outcome to a registered version: export, verify against PyTorch, write the bundle, register."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.packing import Contents, reference, write_bundle
from cluster.registry import Registry, Version
from cluster.tracking import Run, Tracking
from conf.compose import to_yaml
from conf.schema import TrainConfig
from jobs.data.load import Data
from jobs.models.export import export_onnx, verify_export
from jobs.models.features import tensor
from jobs.models.predictor import Predictor, build
from jobs.training.examples import TrainingData
from jobs.training.outcome import Outcome


@dataclass(frozen=True)
class Trained:
    """A finished training: what was asked for, on what, and what came out."""

    cfg: TrainConfig
    name: str
    data: Data
    training_data: TrainingData
    outcome: Outcome
    lineage: dict[str, str]


def restore(trained: Trained) -> Predictor:
    """Return the trained predictor, ready to predict."""
    schema, train = trained.training_data.schema, trained.training_data.train
    predictor = build(trained.cfg.model, schema, train.inputs, train.target)
    predictor.load_state_dict(trained.outcome.state)
    return predictor.eval()


def publish(trained: Trained, tracking: Tracking, run: Run) -> Version:
    """Register the outcome as a version; nothing is registered when the export disagrees with PyTorch."""
    predictor, data, held = restore(trained), trained.data, trained.training_data.validation.inputs
    onnx = export_onnx(predictor, data.schema)
    verify_export(onnx, predictor, data.validation.raw, data.schema)
    with torch.no_grad():
        predictions = predictor(*map(tensor, held.blocks)).numpy()
    contents = Contents(
        onnx=onnx,
        weights=trained.outcome.state,
        config_yaml=to_yaml(trained.cfg),
        schema=data.schema,
        reference=reference(data.train.raw, predictions, data.schema),
        lineage={**trained.lineage, "run": run.id},
        card=_card(trained),
        example=list(data.example),
    )
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder), contents)
        return Registry(tracking).register(trained.name, run, Path(folder))


def _card(trained: Trained) -> str:
    """Return the model card's first form: what the run knows by itself."""
    data, outcome = trained.data, trained.outcome
    sizes = ", ".join(f"{part} {rows:,}" for part, rows in data.sizes.items())
    metrics = "\n".join(f"- {metric}: {value:.4f}" for metric, value in sorted(outcome.metrics.items()))
    columns = "\n".join(f"- {column.name} ({column.type})" for column in data.schema.columns)
    return (
        f"# {trained.name}\n\n"
        f"Predicts `{data.schema.target}` ({data.schema.task}) from {len(data.schema.columns)} columns.\n\n"
        f"## Data\n\nRows: {sizes}. Content hash `{data.data_hash}`, split hash `{data.split_hash}`.\n\n"
        f"## Validation (epoch {outcome.kept_epoch})\n\n{metrics}\n\n## Inputs\n\n{columns}\n"
    )
