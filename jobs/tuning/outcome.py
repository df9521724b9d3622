"""What a search leaves: its winner, the page to look at, and the winner as an experiment's yaml."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from cluster.tracking import Run
from conf.errors import BadInput
from conf.schema import TrainConfig
from jobs.tuning.confirm import Confirmed
from jobs.tuning.experiment import experiment_yaml
from jobs.tuning.journal import JournaledStudy
from jobs.tuning.objectives import Objectives, pruned_best
from jobs.tuning.searcher import ERROR, OVERRIDES
from jobs.tuning.winner import ARTIFACT

EXPERIMENT, PAGE = "search/experiment/best.yaml", "search.html"


@dataclass(frozen=True)
class SearchResult:
    """The winner of a search, chosen on the validation part: its overrides (fixed ones first) and its metrics.

    expected: the mean over fresh seeds, where the best were confirmed. pareto: of several objectives, the overrides
    and values of every trial that no other beats in all; the winner is its first.
    """

    run_id: str
    overrides: tuple[str, ...]
    metric: str
    value: float
    completed: int
    pruned: int
    failed: int
    expected: float | None = None
    pareto: tuple[tuple[tuple[str, ...], tuple[float, ...]], ...] = ()

    def __str__(self) -> str:
        """Say it in a line, and a line for each trial of the Pareto set."""
        counts = f"{self.completed} completed, {self.pruned} pruned, {self.failed} failed"
        expected = "" if self.expected is None else f", on fresh seeds {self.expected:.4f},"
        front = [f"  {', '.join(f'{v:.4g}' for v in values)}: {' '.join(said)}" for said, values in self.pareto]
        best = f"best {self.metric} {self.value:.4f}{expected} of {counts}"
        said = f"{best}: {' '.join(self.overrides)} (run {self.run_id})"
        return "\n".join([said, *(["Pareto set:", *front] if front else [])])


def conclude(
    cfg: TrainConfig,
    run: Run,
    study: JournaledStudy,
    goals: Objectives,
    rungs: tuple[int, ...],
    confirmed: Sequence[Confirmed],
) -> SearchResult:
    """Name the winner and keep it with the run; raises BadInput where there is none."""
    from jobs.tuning.charts import SearchFacts, page  # half a second that no trial waits for

    trials = study.own_trials()
    states = [trial.state for trial in trials]
    if TrialState.COMPLETE not in states and TrialState.RUNNING in states:
        bound, remedy = "was over before a trial finished", f"go on with: python -m jobs.tune resume={run.id}"
        raise BadInput("tuning.time_budget_s", cfg.tuning.time_budget_s, bound, remedy)
    winner, front = _winner(study, trials, goals, confirmed)
    overrides = (*cfg.overrides, *winner.user_attrs[OVERRIDES])
    result = SearchResult(
        run_id=run.id,
        overrides=overrides,
        metric=goals.metric,
        value=float(winner.values[0]),
        completed=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
        failed=states.count(TrialState.FAIL),
        expected=confirmed[0].mean if confirmed else None,
        pareto=tuple((tuple(t.user_attrs[OVERRIDES]), tuple(t.values)) for t in front),
    )
    run.text("\n".join(overrides), ARTIFACT)
    run.text(experiment_yaml(overrides, f"{result.metric} {result.value:.4f}, run {run.id}"), EXPERIMENT)
    about = SearchFacts(
        title=f"Search: {goals.metric}",
        subtitle=f"{len(trials)} trials, run {run.id}",
        metric=goals.metric,
        notes=_notes(result, confirmed),
        best=overrides,
        rungs=rungs,
    )
    run.text(page(study, about), PAGE)
    run.tag({"best": result.value, "best_trial": winner.number})
    run.metrics({f"best_{goals.metric}": result.value, **({} if not confirmed else {"expected": confirmed[0].mean})})
    return result


def _winner(
    study: JournaledStudy, trials: list[FrozenTrial], goals: Objectives, confirmed: Sequence[Confirmed]
) -> tuple[FrozenTrial, list[FrozenTrial]]:
    best = goals.best(trials)
    if confirmed:
        return study.frozen(confirmed[0].number), []
    if best:
        return best[0], best if goals.several else []
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if finished and goals.constraints:
        bound = f"are kept by none of {len(finished)} trials"
        raise BadInput("tuning.constraints", str(dict(goals.constraints)), bound, "loosen them or search longer")
    stopped = None if goals.several else pruned_best(trials, goals.mode)
    if stopped is None:
        why = next((trial.user_attrs[ERROR] for trial in trials if ERROR in trial.user_attrs), "none reported anything")
        raise BadInput("trials", None, f"all {len(trials)} failed ({why})", "mend that and search again")
    return stopped, []


def _notes(result: SearchResult, confirmed: Sequence[Confirmed]) -> tuple[str, ...]:
    """Return what the value of a winner is worth."""
    if confirmed:
        seeds = len(confirmed[0].values)
        lines = [
            f"trial {one.number}: {one.searched:.4f} in the search, {one.mean:.4f} over {seeds} fresh seeds"
            for one in confirmed
        ]
        return ("Trained anew on fresh seeds, which corrects for the luck of the best of many.", *lines)
    count = result.completed + result.pruned
    return (
        f"The winner was chosen on the validation part as the best of {count}: its value is optimistic. "
        "Expect less; tuning.confirm_top_k=3 says how much.",
    )
