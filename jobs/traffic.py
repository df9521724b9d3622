"""Change which variants of a registered model answer, and for how many of the units; what is served follows.

python -m jobs.traffic name=flights weights='{champion:0.5,challenger:0.5}'
python -m jobs.traffic name=flights weights='{champion:1}' ab_test=second    # deals the units anew
"""

from __future__ import annotations

from conf.entrypoint import entrypoint
from conf.schema import Traffic, TrafficConfig


def change_traffic(cfg: TrafficConfig) -> tuple[Traffic, Traffic]:
    """Store the policy, record the change as a run of the model's experiment, and return it before and after.

    Raises BadInput, with nothing changed, for weights that are no shares of aliases that there are.
    """
    from cluster.registry import Registry
    from cluster.tracking import connect

    tracking = connect(cfg.tracking, cfg.cluster)
    registry = Registry(tracking)
    before = registry.policy(cfg.name)
    given = {alias: weight for alias, weight in cfg.weights.items() if weight}
    after = Traffic(cfg.ab_test or before.ab_test, given)
    registry.write_policy(cfg.name, after)
    with tracking.run(cfg.name, "traffic", cfg) as run:
        run.tag({"before": said(before), "after": said(after)})
    return before, after


def said(traffic: Traffic) -> str:
    """Say a policy in a line."""
    shares = ", ".join(f"{alias} {weight:.0%}" for alias, weight in traffic.weights.items() if weight)
    return f"{shares} ({traffic.ab_test})"


@entrypoint("traffic", TrafficConfig)
def main(cfg: TrafficConfig) -> None:
    """Change it and say what was and is."""
    before, after = change_traffic(cfg)
    print(f"{cfg.name}: {said(after)}; before: {said(before)}")


if __name__ == "__main__":
    main()
