"""Serve a registered model over HTTP; returns when it answers and stays up until `python -m serve.stop`.

python -m serve.deploy name=flights traffic=ab
python -m serve.deploy name=flights traffic=ab traffic.weights='{champion:0.9,challenger:0.1}' traffic.shadow=[shadow]
python -m serve.deploy name=flights traffic.ramp='{alias:challenger,steps:[0.01,0.1,0.5],dwell_s:600}'
python -m serve.deploy name=flights serving.http.token_file=tokens   # lines of `role token`: predict, feedback, admin
"""

from __future__ import annotations

from conf.entrypoint import entrypoint
from conf.schema import DeployConfig


def deploy(cfg: DeployConfig) -> str:
    """Store the policy, start the application of `cfg.name`, and return its URL once it answers."""
    from dataclasses import replace

    from cluster.background import start_head
    from cluster.bundle import read_schema
    from cluster.privacy import check_columns
    from cluster.registry import Registry
    from cluster.session import connect, find_address
    from cluster.storage import storage_path
    from cluster.tokens import kept, said
    from cluster.tracking import connect as connect_tracking
    from serve.scaling import check_scaling
    from serve.start import check_name, check_port, start

    check_name(cfg.name)
    check_scaling(cfg.serving)
    said(cfg.serving.http)  # spoilt tokens end it before anything is changed
    registry = Registry(connect_tracking(cfg.tracking, cfg.cluster))
    check_columns(cfg.serving.records, read_schema(registry.resolve(cfg.name, "champion").folder))
    cfg.traffic = registry.write_policy(cfg.name, cfg.traffic)
    tokens = kept(cfg.serving.http, storage_path(cfg.cluster), cfg.name)
    http = replace(cfg.serving.http, token_file=None if tokens is None else str(tokens))
    cfg = replace(cfg, serving=replace(cfg.serving, http=http))
    if find_address(cfg.cluster) is None:
        check_port(http)
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
    from cluster.tokens import said
    from cluster.tracking import connect as connect_tracking

    with step(f"deploy {cfg.name}") as shown:
        url = deploy(cfg)
        shown.done(f"answers at {url}")
    version = Registry(connect_tracking(cfg.tracking, cfg.cluster)).resolve(cfg.name, "champion")
    row = json.dumps(json.loads((version.folder / "example.json").read_text())[0])
    body = shlex.quote(f'{{"rows":[{row}]}}')
    header = '-H "authorization: Bearer $TOKEN" ' if said(cfg.serving.http) else ""
    print(f"curl -s {url}/predict {header}-H 'content-type: application/json' -d {body}")
    print("python -m serve.stop   # ends it")


if __name__ == "__main__":
    main()
