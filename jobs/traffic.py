"""Change which variants of a registered model answer, and for how many of the units; what is served follows.

python -m jobs.traffic name=flights weights='{champion:0.5,challenger:0.5}'
python -m jobs.traffic name=flights weights='{champion:1}' ab_test=second    # deals the units anew
python -m jobs.traffic name=flights shadow=[shadow]    # predicts copies after the answer; shadow=[] ends it
python -m jobs.traffic name=flights ramp='{alias:challenger,steps:[0.01,0.1,0.5],dwell_s:600}'    # weights alone end it
python -m jobs.traffic name=flights kill=true    # at once the champion alone, and how to have back what was
"""

from __future__ import annotations

from conf.entrypoint import entrypoint
from conf.errors import BadInput
from conf.schema import TrafficConfig
from conf.service import Ramp, Traffic


def change_traffic(cfg: TrafficConfig) -> tuple[Traffic, Traffic]:
    """Store the policy, record the change as a run of the model's experiment, and return it before and after.

    Raises BadInput, with nothing changed, for a policy that does not hold together.
    """
    from cluster.policy import describe
    from cluster.registry import Registry
    from cluster.tracking import connect

    tracking = connect(cfg.tracking, cfg.cluster)
    registry = Registry(tracking)
    before = registry.policy(cfg.name)
    after = registry.write_policy(cfg.name, changed(cfg, before))
    with tracking.run(cfg.name, "traffic", cfg) as run:
        run.tag({"before": describe(before), "after": describe(after), "restore": restore(cfg.name, before)})
    return before, after


def changed(cfg: TrafficConfig, before: Traffic) -> Traffic:
    """Return the policy that a command asks for: what it does not say stays, but new weights end a ramp."""
    weights = {alias: weight for alias, weight in cfg.weights.items() if weight}
    ramped, others = bool(cfg.ramp.alias or cfg.ramp.steps), cfg.ab_test is not None or cfg.shadow is not None
    if cfg.kill:
        if weights or ramped or others:
            raise BadInput("kill", "true", "goes alone", "leave ab_test, weights, shadow and ramp out")
        return Traffic(before.ab_test, {"champion": 1.0})
    if not (weights or ramped or others):
        raise BadInput("traffic", None, "has nothing to change", "give weights, shadow, ramp, ab_test or kill=true")
    ramp = cfg.ramp if ramped else Ramp() if weights else before.ramp
    shadow = before.shadow if cfg.shadow is None else cfg.shadow
    return Traffic(cfg.ab_test or before.ab_test, weights or before.weights, shadow, ramp)


def restore(name: str, before: Traffic) -> str:
    """Return the command that brings a policy back; its ramp begins anew."""
    from shlex import join

    from cluster.policy import overrides

    return join(["python", "-m", "jobs.traffic", f"name={name}", *overrides(before)])


@entrypoint("traffic", TrafficConfig)
def main(cfg: TrafficConfig) -> None:
    """Change it and say what was and is."""
    from cluster.policy import describe

    before, after = change_traffic(cfg)
    print(f"{cfg.name}: {describe(after)}; before: {describe(before)}")
    if cfg.kill:
        print(f"{restore(cfg.name, before)}   # brings back what was")


if __name__ == "__main__":
    main()
