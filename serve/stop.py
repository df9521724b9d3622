"""End the background Ray head and all that it serves, by pid.

    python -m serve.stop
"""

from __future__ import annotations

from conf.entrypoint import entrypoint
from conf.schema import Ground


@entrypoint("stop", Ground)
def main(cfg: Ground) -> None:
    """End the head; nothing to end is no error."""
    from cluster.session import stop_head

    print("stopped" if stop_head(cfg.cluster) else "nothing was running")


if __name__ == "__main__":
    main()
