"""Point an alias of a registered model at a version; serving follows.

python -m jobs.promote name=flights version=latest alias=challenger
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conf.entrypoint import entrypoint
from conf.schema import PromoteConfig

if TYPE_CHECKING:
    from cluster.registry import Version


def promote(cfg: PromoteConfig) -> Version:
    """Set the alias and return the version it points at now."""
    from cluster.registry import Registry
    from cluster.tracking import connect

    registry = Registry(connect(cfg.tracking, cfg.cluster))
    version = registry.resolve(cfg.name, cfg.version)
    registry.set_alias(cfg.name, cfg.alias, version.number)
    return version


@entrypoint("promote", PromoteConfig)
def main(cfg: PromoteConfig) -> None:
    """Promote and say it."""
    version = promote(cfg)
    print(f"{version.name}@{cfg.alias} is version {version.number} ({version.semver})")


if __name__ == "__main__":
    main()
