"""Start a Ray head in the background, for `ray job submit` and for commands to join.

python -m cluster.head          # prints the address and the line that submits a job
python -m serve.stop            # ends it, and whatever it serves
"""

from __future__ import annotations

from conf.entrypoint import entrypoint
from conf.schema import Ground


@entrypoint("head", Ground)
def main(cfg: Ground) -> None:
    """Start the head and say how to use it."""
    from cluster.background import start_head

    head = start_head(cfg.cluster)
    print(f"Ray head at {head.address}, dashboard {head.dashboard_url}, pid {head.pid}")
    print(f"submit a job:  export RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS={head.dashboard_url}")
    print("               ray job submit --working-dir . -- python -m jobs.pipeline dataset=flights")
    print("end it:        python -m serve.stop")


if __name__ == "__main__":
    main()
