"""Everything that can be said, typed: one dataclass per settings group and one per entrypoint.

The comment beside a field is its documentation; bounds stand in its metadata and are checked by `conf.bounds`.
Component groups (model, optimizer, lr_schedule, searcher, scheduler) are `_target_` yamls and stay plain mappings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from conf.bounds import one_of, several_of, whole, within
from conf.service import Ramp, Serving, Traffic

Component = dict[str, Any]

COLUMN_TYPES = ("auto", "number", "category", "boolean", "time", "text")
TASKS = ("auto", "binary", "multiclass", "regression")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
TIME_PARTS = ("hour", "weekday", "yearday", "trend")


@dataclass
class Column:
    """What a person may declare about one column; what is not said is inferred from the train part."""

    type: str = one_of("auto", COLUMN_TYPES)
    known_at: str = one_of("prediction", ("prediction", "after"))  # "after": never an input
    parts: list[str] = several_of(TIME_PARTS)  # features made of a time column
    length: int = whole(1024, ge=1)  # text: bytes kept of each


@dataclass
class Checks:
    """Bounds of the checks that run before training."""

    min_rows: int = whole(20, ge=1)  # rows with a target, in each part
    max_single_column_auc: float = within(0.99, gt=0.5, le=1.0)  # above: the column knows the answer (leakage)
    max_single_column_correlation: float = within(0.995, gt=0.0, le=1.0)  # regression: rank correlation, likewise
    max_categories: int = whole(1000, ge=2)  # vocabulary kept per category column, the most frequent first


@dataclass
class Dataset:
    """A table: where it comes from, what is predicted, what may be used."""

    name: str = "???"
    path: Optional[str] = None  # CSV or Parquet file, folder or glob; or
    source: Optional[Component] = None  # _target_ of a function that returns a pyarrow.Table
    loading: str = one_of("memory", ("memory", "stream"))  # stream: files larger than memory, never read whole
    sample_rows: int = whole(200_000, ge=1000)  # stream: of each part, for types, statistics, checks and evaluation
    target: str = "???"
    positive: Optional[str] = None  # binary: the class whose probability is asked for (default: the later in order)
    task: str = one_of("auto", TASKS)
    columns: dict[str, Any] = field(default_factory=dict)  # name -> Column (made typed by conf.compose)
    only_declared: bool = False  # true: a column that is not declared is not used
    exclude: list[str] = field(default_factory=list)
    checks: Checks = field(default_factory=Checks)


@dataclass
class Split:
    """Which rows are train, validation and the sealed test parts; stated once, used everywhere."""

    method: str = one_of("random", ("random", "time"))
    column: Optional[str] = None  # time: the column that decides
    periods: dict[str, list[str]] = field(default_factory=dict)  # time: part -> [from, to), ISO dates
    fractions: dict[str, float] = field(default_factory=dict)  # random: part -> share, together at most 1
    stratify: bool = True  # random: keep class shares equal (classification)
    seed: int = whole(0, ge=0)  # random: not the training's seed, so that replicates share one split


@dataclass
class Training:
    """How long and with what the one loop runs."""

    epochs: int = whole(20, ge=1)
    batch_size: int = whole(1024, ge=1)  # effective, over all workers and micro-batches
    micro_batch: Optional[int] = whole(None, ge=1)  # rows a worker takes at once; null: its whole share of the batch
    steps_per_epoch: Optional[int] = whole(None, ge=1)  # an epoch ends after so many batches; null: after all rows
    precision: str = one_of("fp32", PRECISIONS)  # tf32: faster products on GPUs; bf16, fp16: autocast
    compile: bool = False  # torch.compile
    gradient_checkpointing: bool = False  # compute each block anew in the backward pass: less memory, more time
    gradient_clip: float = within(1.0, ge=0.0)  # largest gradient norm; 0: none
    average: float = within(0.0, ge=0.0, lt=1.0)  # decay of the weights' exponential moving average; 0: none
    label_smoothing: float = within(0.0, ge=0.0, lt=1.0)
    class_weights: str = one_of("equal", ("equal", "balanced"))  # balanced: each class weighs the same in the loss
    sampling: str = one_of("shuffled", ("shuffled", "balanced"))  # balanced: each class is drawn equally often
    keep: str = one_of("best", ("best", "last"))  # epoch whose weights are kept; last: the whole schedule is run
    patience: int = whole(5, ge=1)  # keep=best: epochs without a better selection metric before stopping
    metric: Optional[str] = None  # selection metric (val_auc, val_log_loss, val_rmse ...); null: the task's own
    num_threads: int = whole(1, ge=1)  # torch threads per process
    checkpoint_every_s: float = within(60.0, ge=0.0)  # what a killed run loses at most; 0: after each epoch too


@dataclass
class Scaling:
    """Where the loop runs: in this process, or in Ray Train workers."""

    strategy: str = one_of("local", ("local", "ddp", "fsdp"))
    num_workers: int = whole(1, ge=1)
    min_workers: Optional[int] = whole(None, ge=1)  # elastic: as many as there are, from so many
    max_workers: Optional[int] = whole(None, ge=1)  # to so many
    cpus_per_worker: float = within(1.0, gt=0.0)
    gpus_per_worker: float = within(0.0, ge=0.0)
    max_failures: int = whole(3, ge=0)  # lost workers or hosts before the run ends; each goes on from a checkpoint


@dataclass
class Tuning:
    """The budget of a search."""

    num_samples: int = whole(16, ge=1)  # trials per study
    max_concurrent: Optional[int] = whole(None, ge=1)  # trials at once; null: as many as the cluster holds
    cpus_per_trial: float = within(1.0, gt=0.0)
    gpus_per_trial: float = within(0.0, ge=0.0)  # a fraction: several trials share a GPU
    time_budget_s: Optional[float] = within(None, gt=0.0)  # of the search
    trial_timeout_s: Optional[float] = within(None, gt=0.0)  # of a trial; one that takes longer has failed
    report_every_s: float = within(0.5, ge=0.0)  # between two reports of a trial, where no rung comes first
    checkpoint_every_s: float = within(60.0, gt=0.0)  # what an interrupted trial loses at most
    most_alike: int = whole(3, ge=1)  # the first so many trials fail the same way: the search ends
    objectives: Any = None  # several: metric -> max or min; null: training.metric alone
    constraints: Any = None  # metric -> {max: ...} or {min: ...}
    confirm_top_k: int = whole(0, ge=0)  # train the best so many anew, on fresh seeds, before the winner is named
    confirm_seeds: int = whole(3, ge=1)
    preview: bool = False  # true: say the plan and its cost, and spend nothing


@dataclass
class Tracking:
    """Where runs and registered models are kept."""

    uri: Optional[str] = None  # null: SQLite under the storage path
    experiment: Optional[str] = None  # MLflow experiment; null: the registered model's name


@dataclass
class Cluster:
    """The Ray cluster and the folder that all of it shares."""

    address: Optional[str] = None  # null: the job's cluster, else our background head, else an embedded Ray
    storage: Optional[str] = None  # null: $RUNGWAY_STORAGE, else var/ here (in a submitted job ~/.rungway)
    num_cpus: Optional[int] = None  # embedded: null means all cores
    dashboard: bool = True  # background head: needed by `ray job submit`
    dashboard_port: int = whole(8265, ge=1, le=65535)


@dataclass
class Ground:
    """What every entrypoint has."""

    tracking: Tracking = field(default_factory=Tracking)
    cluster: Cluster = field(default_factory=Cluster)
    overrides: list[str] = field(default_factory=list)  # filled in by the entrypoint: what was said in the shell


@dataclass
class TrainConfig(Ground):
    """jobs.train and jobs.tune."""

    name: Optional[str] = None  # registered model; null: the dataset's name, for `table` the file's stem
    seed: int = whole(0, ge=0)
    register: bool = True
    tuned: Optional[str] = None  # train the winner of this search (run id or "latest")
    reproduce: Optional[str] = None  # repeat this run (run id or "latest") and compare
    resume: Optional[str] = None  # go on with this run or search (run id or "latest")
    debug: bool = False  # a few batches in one process, every shape and gradient said, anomalies found
    profiler: bool = False  # record some steps: a trace, and a table of where the time goes
    replay: Optional[str] = None  # jobs.tune: what the schedule said would have done to this search
    dataset: Dataset = field(default_factory=Dataset)
    split: Split = field(default_factory=Split)
    model: Component = field(default_factory=dict)
    optimizer: Component = field(default_factory=dict)
    lr_schedule: Component = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    scaling: Scaling = field(default_factory=Scaling)
    tuning: Tuning = field(default_factory=Tuning)
    search_space: dict[str, Any] = field(default_factory=dict)
    searcher: Component = field(default_factory=dict)
    scheduler: Component = field(default_factory=dict)


@dataclass
class EvaluateConfig(Ground):
    """jobs.evaluate."""

    run: str = "latest"  # a training run's id, or the latest
    name: Optional[str] = None  # latest of this registered model only
    final: bool = False  # true: open the sealed test parts (each opening is recorded)
    resamples: int = whole(500, ge=100)  # bootstrap
    confidence: float = within(0.95, gt=0.5, lt=1.0)


@dataclass
class PromoteConfig(Ground):
    """jobs.promote."""

    name: str = "???"
    version: str = "latest"  # a number, an alias, or "latest"
    alias: str = one_of("challenger", ("champion", "challenger", "shadow", "staging"))


@dataclass
class TrafficConfig(Ground):
    """jobs.traffic."""

    name: str = "???"
    ab_test: Optional[str] = None  # salt of the sticky hash; null: the one that is live
    weights: dict[str, float] = field(default_factory=dict)  # alias -> share of the units; they sum to 1. {}: as it is
    shadow: Optional[list[str]] = None  # aliases that predict a copy; null: as it is; []: none
    ramp: Ramp = field(default_factory=Ramp)  # without steps: as it is; weights alone end it
    kill: bool = False  # true: at once the champion alone, no shadow, no ramp


@dataclass
class DeployConfig(Ground):
    """serve.deploy."""

    name: str = "???"
    serving: Serving = field(default_factory=Serving)
    traffic: Traffic = field(default_factory=Traffic)


@dataclass
class StopConfig(Ground):
    """serve.stop."""

    name: Optional[str] = None  # null: all, and the background head with it


@dataclass
class StatusConfig(Ground):
    """serve.status."""

    name: Optional[str] = None  # null: all that is served
    format: str = one_of("table", ("table", "json"))


@dataclass
class PipelineConfig(TrainConfig):
    """jobs.pipeline."""

    serving: Serving = field(default_factory=Serving)
    traffic: Traffic = field(default_factory=Traffic)
    resamples: int = whole(500, ge=100)
    confidence: float = within(0.95, gt=0.5, lt=1.0)
    requests: int = whole(500, ge=1)  # real rows sent over HTTP, with feedback
    keep: bool = False  # true: leave serving up at the end (`python -m serve.stop` ends it)
