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
    from cluster.session import connect, find_address
    from cluster.storage import storage_path
    from cluster.tokens import forget

    if cfg.name is None:
        return stop_head(cfg.cluster)
    if find_address(cfg.cluster) is None:
        return False
    with connect(cfg.cluster):
        from serve.start import end

        ended = end(cfg.name)
    if ended:
        forget(storage_path(cfg.cluster), cfg.name)
    return ended


@entrypoint("stop", StopConfig)
def main(cfg: StopConfig) -> None:
    """End it; nothing to end is no error."""
    print("stopped" if stop(cfg) else "nothing was running")


if __name__ == "__main__":
    main()
