"""What an application keeps: predictions and feedback, written off the requests' path, merged and expired."""

from __future__ import annotations

from functools import partial

from cluster import records
from cluster.columns import ModelSchema
from cluster.compaction import Compactor
from cluster.privacy import Privacy, check_columns
from cluster.records import Feedback, Predictions
from cluster.segments import SegmentWriter
from cluster.storage import storage_path
from conf.schema import DeployConfig


class Recorder:
    """The writers of one application's records."""

    def __init__(self, cfg: DeployConfig, schema: ModelSchema) -> None:
        """Begin to write; raises BadInput for settings that the model's columns do not bear out."""
        said, storage = cfg.serving.records, storage_path(cfg.cluster)
        check_columns(said, schema)
        tops = [records.folder(storage, kind, cfg.name) for kind in (records.PREDICTIONS, records.FEEDBACK)]
        tables = partial(records.prediction_tables, privacy=Privacy.of(said, storage))
        self.predictions = SegmentWriter[Predictions](tops[0], tables, said.flush_s, said.queue_rows)
        self.feedback = SegmentWriter[Feedback](tops[1], records.feedback_tables, said.flush_s, said.queue_rows)
        self._compactor = Compactor(tops, said.retention_days)

    def close(self) -> None:
        """Write what is left."""
        self.predictions.close()
        self.feedback.close()
        self._compactor.close()
