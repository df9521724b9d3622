"""The whole chain in one command: data, baseline, search, training, evaluation, registry, A/B over HTTP.

python -m jobs.pipeline dataset=flights
python -m jobs.pipeline dataset=table dataset.path=my.csv dataset.target=price
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conf.entrypoint import entrypoint
from conf.schema import PipelineConfig

if TYPE_CHECKING:
    from jobs.evaluation.live import Served
    from jobs.evaluation.run import Evaluation

STEPS = 7


def pipeline(cfg: PipelineConfig) -> tuple[list[Evaluation], list[Served]]:
    """Run the chain; what it started itself it ends, unless `keep=true`."""
    from cluster.progress import numbered, say, step
    from jobs.chain.chain import Chain
    from jobs.data.load import load
    from jobs.evaluate import evaluate
    from jobs.promote import promote
    from jobs.train import train
    from jobs.tuning.search import run_search

    with Chain(cfg) as chain, numbered(STEPS):
        with step("data") as shown:
            data = load(cfg.dataset, cfg.split)
            shown.done(f"content {data.data_hash[:12]}, split {data.split_hash[:12]}")
        say(data.said)
        baseline = train(chain.baseline())
        found = run_search(chain.search())
        winner = train(chain.winner(found))
        with step("evaluate both on the sealed parts") as shown:
            evaluations = [evaluate(chain.evaluation(trained.run_id)) for trained in (baseline, winner)]
            shown.done("opened and recorded")
        promote(chain.promotion(winner.version))
        with step("deploy") as shown:
            shown.done(f"answers at {chain.deploy()}")
        with step(f"{cfg.requests} real rows over HTTP, with feedback") as shown:
            served = chain.exchange(data, shown)
    return evaluations, served


@entrypoint("pipeline", PipelineConfig)
def main(cfg: PipelineConfig) -> None:
    """Run the chain and close with the table and where to look next."""
    from cluster.tracking import connect
    from jobs.evaluation.live import closing_table

    evaluations, served = pipeline(cfg)
    print()
    print("\n".join(line for evaluation in evaluations for line in evaluation.lines()))
    print()
    print("\n".join(closing_table(served, list(evaluations[-1].metrics)[-1])))
    print()
    print(f"report:   {evaluations[-1].report}")
    print(f"all runs: {connect(cfg.tracking, cfg.cluster).ui_command()}")


if __name__ == "__main__":
    main()
