"""Evaluate a trained model with intervals; the sealed parts only with final=true.

python -m jobs.evaluate run=latest
python -m jobs.evaluate run=latest name=flights final=true
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conf.entrypoint import entrypoint
from conf.schema import EvaluateConfig

if TYPE_CHECKING:
    from jobs.evaluation.run import Evaluation


def evaluate(cfg: EvaluateConfig) -> Evaluation:
    """Evaluate a run's version; metrics and the HTML report are kept with the run."""
    from cluster.tracking import connect
    from jobs.evaluation.run import evaluate_run

    return evaluate_run(cfg, connect(cfg.tracking, cfg.cluster))


@entrypoint("evaluate", EvaluateConfig)
def main(cfg: EvaluateConfig) -> None:
    """Evaluate and show the table."""
    evaluation = evaluate(cfg)
    print("\n".join(evaluation.lines()))
    print(f"report: {evaluation.report}")


if __name__ == "__main__":
    main()
