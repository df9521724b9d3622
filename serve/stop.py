"""End what is served: one application, or the background Ray head with all that it serves, by pid.

python -m serve.stop
python -m serve.stop name=flights
"""

from __future__ import annotations

from conf.entrypoint import entrypoint
from conf.schema import StopConfig


def stop(cfg: StopConfig) -> bool:
    """End the application or the head; return whether there was anything to end."""
    from cluster.background import stop_head
    from cluster.session import find_address
    from cluster.storage import storage_path
    from serve.snapshots import forget, models

    if cfg.name is None:
        _drain(cfg)
        ended = stop_head(cfg.cluster)
        all_over = find_address(cfg.cluster) is None  # another Ray than ours goes on
    else:
        ended, all_over = _end(cfg, cfg.name), False
    storage = storage_path(cfg.cluster)
    for model in models(storage):
        if all_over or model == cfg.name:
            forget(storage, model)
    return ended


def _drain(cfg: StopConfig) -> None:
    """Let the head's replicas answer what they have in hand and write what is left of the records."""
    import time

    from cluster.background import running_head
    from cluster.session import connect, find_address
    from cluster.storage import storage_path
    from serve.snapshots import folder, models, read

    storage, now = storage_path(cfg.cluster), time.time()
    living = any(one.lives(now) for model in models(storage) for one in read(folder(storage, model), now))
    head = running_head(storage)
    if living and head is not None and find_address(cfg.cluster) == head.address:  # and no other Ray than ours
        with connect(cfg.cluster):
            from ray import serve

            serve.shutdown()


def _end(cfg: StopConfig, name: str) -> bool:
    from cluster.session import connect, find_address

    if find_address(cfg.cluster) is None:
        return False
    with connect(cfg.cluster):
        from serve.start import end

        return end(name)


@entrypoint("stop", StopConfig)
def main(cfg: StopConfig) -> None:
    """End it; nothing to end is no error."""
    print("stopped" if stop(cfg) else "nothing was running")


if __name__ == "__main__":
    main()
