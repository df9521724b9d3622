"""From an outcome to a registered version: export, verify against PyTorch, write the bundle, register."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from cluster.bundle import reference, write_bundle
from cluster.registry import Registry, Version
from cluster.tracking import Tracking
from conf.schema import TrainConfig
from jobs.data.load import Data
from jobs.models.export import export_onnx, verify_export
from jobs.models.predictor import Predictor, build
from jobs.training.loop import Outcome
from jobs.training.tensors import TrainingData


def restore(cfg: TrainConfig, data: TrainingData, outcome: Outcome) -> Predictor:
    """Return the trained predictor in eval mode."""
    predictor = build(cfg.model, data.schema, data.train.encoded(), data.train.target)
    predictor.load_state_dict(outcome.state)
    return predictor.eval()


def publish(
    cfg: TrainConfig,
    name: str,
    run_id: str,
    tracking: Tracking,
    data: Data,
    tensors: TrainingData,
    outcome: Outcome,
    lineage: dict[str, object],
    config_yaml: str,
) -> Version:
    """Register the outcome as a version of `name`; nothing is registered when the export disagrees with PyTorch."""
    predictor = restore(cfg, tensors, outcome)
    onnx = export_onnx(predictor, data.schema)
    verify_export(onnx, predictor, data.validation.raw, tensors.validation.encoded())
    held = tensors.validation
    with torch.no_grad():
        predictions = predictor(held.numbers, held.codes, held.times).numpy()
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(
            Path(folder),
            onnx=onnx,
            weights=outcome.state,
            config_yaml=config_yaml,
            schema=data.schema,
            reference=reference(data.train, predictions, data.schema),
            lineage=lineage,
            card=_card(name, data, outcome),
            example={column: values[:5] for column, values in data.validation.raw.items()},
        )
        return Registry(tracking).register(name, run_id, Path(folder))


def _card(name: str, data: Data, outcome: Outcome) -> str:
    """Return the model card's first form: what the run knows by itself."""
    sizes = ", ".join(f"{part} {rows:,}" for part, rows in data.sizes.items())
    metrics = "\n".join(f"- {metric}: {value:.4f}" for metric, value in sorted(outcome.metrics.items()))
    columns = "\n".join(f"- {column.name} ({column.type})" for column in data.schema.columns)
    return (
        f"# {name}\n\nPredicts `{data.schema.target}` ({data.schema.task}) from {len(data.schema.columns)} columns.\n\n"
        f"## Data\n\nRows: {sizes}. Content hash `{data.data_hash}`, split hash `{data.split_hash}`.\n\n"
        f"## Validation (epoch {outcome.best_epoch})\n\n{metrics}\n\n## Inputs\n\n{columns}\n"
    )
