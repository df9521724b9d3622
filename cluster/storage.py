"""The one folder that everything is kept under, resolved once to an absolute path."""

from __future__ import annotations

import json
import os
from pathlib import Path

from conf.errors import BadInput
from conf.schema import Cluster

VARIABLE = "RUNGWAY_STORAGE"


def submitted() -> bool:
    """Tell whether this process is the driver of a submitted Ray job, whose working folder Ray deletes later."""
    return "job_submission_id" in json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})


def storage_path(cluster: Cluster) -> Path:
    """Return the absolute storage path, made if need be.

    cluster.storage, else $RUNGWAY_STORAGE, else var/ here; in a submitted job ~/.rungway instead of var/.
    Raises BadInput for a relative path in a submitted job, or a folder that cannot be made.
    """
    key = "cluster.storage" if cluster.storage else VARIABLE
    said = cluster.storage or os.environ.get(VARIABLE) or ("~/.rungway" if submitted() else "var")
    path = Path(said).expanduser()
    if submitted() and not path.is_absolute():
        bound = "is relative, and a submitted job runs in a copy that Ray deletes later"
        raise BadInput(key, said, bound, "give an absolute path")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(key, said, f"cannot be made ({error.strerror})", "give a folder you may write to") from error
    return path.resolve()
