"""Serve a registered model over HTTP; returns when it answers and stays up until `python -m serve.stop`.

python -m serve.deploy name=flights traffic=ab
python -m serve.deploy name=flights traffic=ab traffic.weights='{champion:0.9,challenger:0.1}'
"""

from __future__ import annotations

from conf.entrypoint import entrypoint
from conf.schema import DeployConfig


def deploy(cfg: DeployConfig) -> str:
    """Store the policy, start the application of `cfg.name`, and return its URL once it answers."""
    from cluster.background import start_head
    from cluster.bundle import read_schema
    from cluster.privacy import check_columns
    from cluster.registry import Registry
    from cluster.session import connect, find_address
    from cluster.tracking import connect as connect_tracking
    from serve.start import check_port, start

    registry = Registry(connect_tracking(cfg.tracking, cfg.cluster))
    check_columns(cfg.serving.records, read_schema(registry.resolve(cfg.name, "champion").folder))
    registry.write_policy(cfg.name, cfg.traffic)
    if find_address(cfg.cluster) is None:
        check_port(cfg.serving.http)
        start_head(cfg.cluster)
    with connect(cfg.cluster):
        return start(cfg)


@entrypoint("deploy", DeployConfig)
def main(cfg: DeployConfig) -> None:
    """Deploy, and show a request that can be pasted."""
    import json
    import shlex

    from cluster.progress import step
    from cluster.registry import Registry
    from cluster.tracking import connect as connect_tracking

    with step(f"deploy {cfg.name}") as shown:
        url = deploy(cfg)
        shown.done(f"answers at {url}")
    version = Registry(connect_tracking(cfg.tracking, cfg.cluster)).resolve(cfg.name, "champion")
    row = json.dumps(json.loads((version.folder / "example.json").read_text())[0])
    body = shlex.quote(f'{{"rows":[{row}]}}')
    print(f"curl -s {url}/predict -H 'content-type: application/json' -d {body}")
    print("python -m serve.stop   # ends it")


if __name__ == "__main__":
    main()
