"""The variants a replica holds, and how they follow the registry: loaded and warmed beside the old, then swapped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from cluster.bundle import Bundle, read_schema
from cluster.columns import ModelSchema, raw_from_rows
from cluster.policy import aliases_of
from cluster.registry import Registry, Version, shape
from cluster.tracking import connect
from conf.errors import BadInput, nearest
from conf.schema import DeployConfig
from conf.service import Traffic
from serve.answers import Refused
from serve.doubts import Trained
from serve.isolated import Hosts, IsolatedBundle
from serve.traffic import weights_at

log = logging.getLogger("ray.serve")


@dataclass(frozen=True, eq=False)
class Variant:
    """One loaded version under its alias; equal to itself alone."""

    alias: str
    version: Version
    bundle: Bundle | IsolatedBundle
    trained: Trained

    def headers(self, request_id: str) -> dict[str, str]:
        """Return what every answer of it says of itself."""
        return {"x-request-id": request_id, "x-variant": self.alias, "x-version": str(self.version.number)}


@dataclass(frozen=True)
class Live:
    """What answers at one moment: the policy, a variant for each of its aliases, and their weights just now.

    shadows: what predicts copies and answers nobody, in sessions of one thread of its own.
    """

    policy: Traffic
    variants: dict[str, Variant]
    weights: dict[str, float]
    shadows: dict[str, Variant] = field(default_factory=dict)

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
    hosts: Hosts | None = None  # where variants live that are not held here
    live: Live = field(init=False)
    _stop: threading.Event = field(default_factory=threading.Event)
    _swap: threading.Lock = field(default_factory=threading.Lock)  # of `live`, which two threads replace

    def __post_init__(self) -> None:
        """Load what the registry says now; raises BadInput where that cannot be served."""
        self._registry = Registry(connect(self.cfg.tracking, self.cfg.cluster))
        self._refused = {"variants": "", "shadows": ""}
        self._champions: list[Variant] = []  # the last two that answered: a rollback needs no load
        self.live = self._load(None)
        self._look()
        threading.Thread(target=self._follow, name="follow-registry", daemon=True).start()
        threading.Thread(target=self._ramp, name="follow-clock", daemon=True).start()

    @property
    def refused(self) -> str:
        """Return why the registry's word is not followed at the moment, "" where it is."""
        return self._refused["variants"] or self._refused["shadows"]

    def close(self) -> None:
        """Follow the registry no longer."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.wait(self.cfg.serving.poll_s):
            self._look()

    def _ramp(self) -> None:
        """Keep the weights those of the moment, also while the registry lets wait for its answer."""
        while not self._stop.wait(self.cfg.serving.poll_s):
            with self._swap:
                weights = weights_at(self.live.policy, time.time())
                if weights != self.live.weights:
                    self.live = replace(self.live, weights=weights)

    def _look(self) -> None:
        """Follow the registry as far as it can be followed."""
        with self._refusing("variants"):
            old = self.live
            loaded = self._load(old)
            self._refused["variants"] = ""  # no moment at which the new answer and the old reason is still said
            if loaded is not old:
                with self._swap:
                    self.live = loaded
        with self._refusing("shadows"):
            self._load_shadows()

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        """Keep what is loaded whatever goes wrong inside, and say why, in the log once."""
        try:
            yield
        except Exception as error:  # the registry is asked again
            why = str(error) or repr(error)
            if why != self._refused[what]:
                log.warning("%s: keeps serving what it has; %s", self.cfg.name, why)
            self._refused[what] = why
        else:
            self._refused[what] = ""

    def _load(self, old: Live | None) -> Live:
        """Return what the registry says, reusing what is loaded; the same object where nothing changed."""
        name = self.cfg.name
        policy, aliases = self._registry.policy(name), self._registry.aliases(name)
        needed = [*policy.weights, *([policy.ramp.alias] if policy.ramp.steps else [])]
        for alias in needed:
            if alias not in aliases:
                raise BadInput(aliases_of(policy)[alias], alias, f"is no alias of {name}", "promote a version to it")
        wanted = {alias: aliases[alias] for alias in needed}
        if old and old.policy == policy and wanted == _numbers(old.variants):
            return old
        kept = [*self._champions, *(old.variants.values() if old else ())]
        loaded = {self._place(variant.alias, variant.version.number): variant for variant in kept}
        variants = {}
        for alias, number in wanted.items():
            place = self._place(alias, number)
            loaded[place] = loaded.get(place) or self._warmed(alias, number, self._threads)
            variants[alias] = replace(loaded[place], alias=alias)
        if "champion" in variants:
            others = [kept for kept in self._champions if kept.version.number != wanted["champion"]]
            self._champions = [*others[-1:], variants["champion"]]
        shadows = {alias: shadow for alias, shadow in old.shadows.items() if alias in policy.shadow} if old else {}
        return Live(policy, variants, weights_at(policy, time.time()), shadows)

    def _load_shadows(self) -> None:
        """Load the shadows that the policy names; one that cannot be used is left out, and answers go on without it.

        Raises what kept out the first of them. One that takes or gives something else than the champion could be
        neither fed nor compared: it is refused before it is loaded.
        """
        if not self.live.policy.shadow:
            return
        aliases, found, errors = self._registry.aliases(self.cfg.name), {}, []
        for alias in self.live.policy.shadow:
            try:
                found[alias] = self._shadow(alias, aliases)
            except Exception as error:  # told by the caller
                errors.append(error)
        if _numbers(found) != _numbers(self.live.shadows):
            with self._swap:
                self.live = replace(self.live, shadows=found)
        if errors:
            raise errors[0]

    def _shadow(self, alias: str, aliases: Mapping[str, int]) -> Variant:
        name = self.cfg.name
        if alias not in aliases:
            raise BadInput("traffic.shadow", alias, f"is no alias of {name}", "promote a version to it")
        number, old = aliases[alias], self.live.shadows.get(alias)
        same = old if old and old.version.number == number else None
        schema = same.bundle.schema if same else read_schema(self._registry.resolve(name, str(number)).folder)
        if shape(schema) != shape(self.live.schema):
            bound = f"is version {number}, which takes or gives something else than what answers"
            raise BadInput("traffic.shadow", alias, bound, "train it on the same columns and target")
        return same or self._warmed(alias, number, 1)

    @property
    def _threads(self) -> int:
        return max(1, int(self.cfg.serving.cpus_per_replica))

    def _place(self, alias: str, number: int) -> tuple[str, int]:
        """Return what tells loaded bundles apart: aliases share a version where they share a replica."""
        return ("" if self.hosts is None else alias, number)

    def _warmed(self, alias: str, number: int, threads: int) -> Variant:
        """Load and try a version on its own example rows; raises BadInput where it cannot answer them."""
        version = self._registry.resolve(self.cfg.name, str(number))
        bundle = (
            Bundle.load(version.folder, threads, gpu=self.cfg.serving.gpus_per_replica > 0)
            if self.hosts is None
            else self.hosts.load(alias, version)
        )
        schema, rows = bundle.schema, bundle.example()
        outputs = bundle.predict(raw_from_rows(rows, schema))
        wanted = (len(rows), len(schema.classes) or 1)
        if outputs.shape != wanted:
            bound = f"answers its example rows in the shape {outputs.shape}, its schema says {wanted}"
        elif not np.isfinite(outputs).all():
            bound = "answers its example rows with what is no number"
        else:
            return Variant(alias, version, bundle, Trained(schema))
        raise BadInput("bundle", str(version.folder), bound, "register the model again")


def _numbers(variants: Mapping[str, Variant]) -> dict[str, int]:
    return {alias: variant.version.number for alias, variant in variants.items()}
