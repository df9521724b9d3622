"""Do all hosts of the cluster see the storage path? Asked before anything is spent."""

from __future__ import annotations

import uuid
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from conf.errors import BadInput


@ray.remote(num_cpus=0)
def _sees(probe: str, word: str) -> bool:
    path = Path(probe)
    return path.exists() and path.read_text() == word


def check_shared(folder: Path) -> None:
    """Raise BadInput, naming the hosts, where not every host of the connected cluster sees what is written to a folder.

    A cluster of one host is not asked.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    word = uuid.uuid4().hex
    probe = folder / f"probe-{word}"
    probe.write_text(word)
    try:
        placed = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        asked = [_sees.options(scheduling_strategy=on).remote(str(probe), word) for on in placed]
        blind = [node["NodeManagerAddress"] for node, sees in zip(nodes, ray.get(asked), strict=True) if not sees]
    finally:
        probe.unlink()
    if blind:
        bound = f"is not seen by {', '.join(blind)}"
        raise BadInput("cluster.storage", str(folder), bound, "give a folder that all hosts share")
