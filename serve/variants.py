"""The variants a replica holds, and how they follow the registry: loaded and warmed beside the old, then swapped."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from cluster.bundle import Bundle
from cluster.columns import ModelSchema, raw_from_rows
from cluster.registry import Registry, Version
from cluster.tracking import connect
from conf.errors import BadInput, nearest
from conf.schema import DeployConfig, Traffic
from serve.answers import Refused
from serve.doubts import Trained

log = logging.getLogger("ray.serve")


@dataclass(frozen=True, eq=False)
class Variant:
    """One loaded version under its alias; equal to itself alone."""

    alias: str
    version: Version
    bundle: Bundle
    trained: Trained


@dataclass(frozen=True)
class Live:
    """What answers at one moment: the policy and a variant for each of its aliases."""

    policy: Traffic
    variants: dict[str, Variant]

    @property
    def schema(self) -> ModelSchema:
        """Return the champion's schema, or of whichever variant is first."""
        first = next(iter(self.variants.values()))
        return self.variants.get("champion", first).bundle.schema

    @property
    def numbers(self) -> list[int]:
        """Return the versions that answer."""
        return sorted({variant.version.number for variant in self.variants.values()})

    def of_version(self, number: int) -> Variant:
        """Return the variant that is a version; raises Refused (404) where none is."""
        for variant in self.variants.values():
            if variant.version.number == number:
                return variant
        there = ", ".join(map(str, self.numbers))
        raise Refused(404, BadInput("version", number, "is not served", f"ask for {there}, or for none"))

    def of_alias(self, alias: str, number: int | None) -> Variant:
        """Return the variant of an alias; raises Refused: 404 where none is, 422 where it is not the version asked."""
        if alias not in self.variants:
            raise Refused(404, BadInput("x-variant", alias, "is not served", nearest(alias, self.variants)))
        found = self.variants[alias]
        if number not in (None, found.version.number):
            bound = f"is version {found.version.number}, not {number}"
            raise Refused(422, BadInput("x-variant", alias, bound, "ask for one of them"))
        return found


@dataclass
class Variants:
    """Holds `live`, replaced as a whole whenever the registry says something else."""

    cfg: DeployConfig
    live: Live = field(init=False)
    refused: str = ""  # why the registry's word is not followed at the moment
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Load what the registry says now; raises BadInput where that cannot be served."""
        self._registry = Registry(connect(self.cfg.tracking, self.cfg.cluster))
        self.live = self._load(None)
        threading.Thread(target=self._follow, name="follow-registry", daemon=True).start()

    def close(self) -> None:
        """Follow the registry no longer."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.wait(self.cfg.serving.poll_s):
            try:
                self.live = self._load(self.live)
                self.refused = ""
            except Exception as error:  # whatever it is, what is loaded answers and the registry is asked again
                why = str(error) or repr(error)
                if why != self.refused:
                    log.warning("%s: keeps serving what it has; %s", self.cfg.name, why)
                self.refused = why

    def _load(self, old: Live | None) -> Live:
        """Return what the registry says, reusing what is loaded; the same object where nothing changed."""
        name = self.cfg.name
        policy, aliases = self._registry.policy(name), self._registry.aliases(name)
        wanted = {alias: aliases[alias] for alias in policy.weights if alias in aliases}
        missing = sorted(set(policy.weights) - set(wanted))
        if missing:
            raise BadInput("traffic.weights", missing[0], f"is no alias of {name}", "promote a version to it")
        if old and old.policy == policy and wanted == {a: v.version.number for a, v in old.variants.items()}:
            return old
        loaded = {v.version.number: v.bundle for v in old.variants.values()} if old else {}
        variants = {}
        for alias, number in wanted.items():
            version = self._registry.resolve(name, str(number))
            bundle = loaded.get(number) or self._warmed(version)
            loaded[number] = bundle
            variants[alias] = Variant(alias, version, bundle, Trained(bundle.schema))
        return Live(policy, variants)

    def _warmed(self, version: Version) -> Bundle:
        threads = max(1, int(self.cfg.serving.cpus_per_replica))
        bundle = Bundle.load(version.folder, threads)
        bundle.predict(raw_from_rows(bundle.example(), bundle.schema))
        return bundle
