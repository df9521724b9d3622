"""The registry decides: versions, aliases and the traffic policy. Every write to them goes through this file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

import mlflow
from filelock import FileLock
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from cluster.bundle import check_manifest, read_schema
from cluster.columns import ModelSchema
from cluster.policy import ALIASES, aliases_of, check_traffic, from_json, started, to_json
from cluster.tracking import Run, Tracking
from conf.errors import BadInput, nearest
from conf.service import Traffic

SEMVER, POLICY = "semver", "traffic"  # tags of a version, of a registered model


@dataclass(frozen=True)
class Version:
    """One registered version; folder: its bundle on this machine."""

    name: str
    number: int
    run_id: str
    semver: str
    folder: Path


class Registry:
    """The registered models of one tracking store."""

    def __init__(self, tracking: Tracking) -> None:
        self._client, self._storage = tracking.client, tracking.storage

    def names(self) -> list[str]:
        """Return all registered models' names."""
        return [str(model.name) for model in self._client.search_registered_models()]

    def register(self, name: str, run: Run, folder: Path) -> Version:
        """Register a written bundle as a new version of `name`; the first version becomes champion.

        The bundle is checked and stored first and the version created last: an interruption registers nothing.
        """
        check_manifest(folder)
        schema = read_schema(folder)
        self._client.log_artifacts(run.id, str(folder), "model")
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
        source = f"{self._client.get_run(run.id).info.artifact_uri}/model"
        with FileLock(self._storage / "registry.lock"):
            semver = self._next_semver(name, schema)
            made = self._client.create_model_version(name, source, run.id, tags={SEMVER: semver})
            if "champion" not in self.aliases(name):
                self.set_alias(name, "champion", int(made.version))
        return self._version(made)

    def resolve(self, name: str, said: str) -> Version:
        """Return a version by number, alias or "latest"; raises BadInput with what there is."""
        self._check_name(name)
        aliases = self.aliases(name)
        number = str(aliases[said]) if said in aliases else said
        found = self._versions(name)
        if said == "latest" and found:
            number = str(max(found))
        if not number.isdecimal() or int(number) not in found:
            known = [str(version) for version in sorted(found)] + sorted(aliases) + ["latest"]
            raise BadInput("version", said, f"is no version or alias of {name}", nearest(said, known))
        return self._version(found[int(number)])

    def aliases(self, name: str) -> dict[str, int]:
        """Return alias -> version number."""
        self._check_name(name)
        return {alias: int(number) for alias, number in self._client.get_registered_model(name).aliases.items()}

    def set_alias(self, name: str, alias: str, number: int) -> None:
        """Point an alias at a version."""
        if alias not in ALIASES:
            raise BadInput("alias", alias, "is not an alias", nearest(alias, ALIASES))
        self._client.set_registered_model_alias(name, alias, str(number))

    def write_policy(self, name: str, traffic: Traffic) -> Traffic:
        """Store the traffic policy with the registered model, and return it as stored; serving follows.

        A ramp starts now, unless the same one is under way. Raises BadInput for a policy that does not hold together
        or names an alias that is not there, with nothing changed.
        """
        check_traffic(traffic)
        named, there = aliases_of(traffic), self.aliases(name)
        for alias in sorted(set(named) - set(there)):
            remedy = f"run: python -m jobs.promote name={name} version=latest alias={alias}"
            raise BadInput(named[alias], alias, f"is no alias of {name}", remedy)
        try:
            before = self.policy(name)
        except BadInput:  # a spoilt one is mended by this one
            before = None
        stored = started(traffic, before, time.time())
        self._client.set_registered_model_tag(name, POLICY, to_json(stored))
        return stored

    def policy(self, name: str) -> Traffic:
        """Return the traffic policy; without one the champion answers everything. Raises BadInput for a spoilt one."""
        self._check_name(name)
        written = self._client.get_registered_model(name).tags.get(POLICY)
        return from_json(written) if written else Traffic(weights={"champion": 1.0})

    def _check_name(self, name: str) -> None:
        try:
            self._client.get_registered_model(name)
        except MlflowException as error:
            raise BadInput("name", name, "is no registered model", nearest(name, self.names())) from error

    def _versions(self, name: str) -> dict[int, ModelVersion]:
        return {int(v.version): v for v in self._client.search_model_versions(f"name = '{name}'")}

    def _version(self, made: ModelVersion) -> Version:
        return Version(
            name=str(made.name),
            number=int(made.version),
            run_id=str(made.run_id),
            semver=made.tags.get(SEMVER, "0.0.0"),
            folder=self._local(made),
        )

    def _local(self, made: ModelVersion) -> Path:
        """Return the bundle's folder on this machine, fetched once when it lies elsewhere."""
        source = urlparse(str(made.source))
        if source.scheme in ("", "file"):
            return Path(unquote(source.path))
        folder = self._storage / "bundles" / str(made.name) / str(made.version)
        if not (folder / "manifest.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            mlflow.artifacts.download_artifacts(str(made.source), dst_path=str(folder))
        return folder

    def _next_semver(self, name: str, schema: ModelSchema) -> str:
        """Major: the input schema changed; minor: trained anew."""
        versions = self._versions(name)
        if not versions:
            return "1.0.0"
        latest = self._version(versions[max(versions)])
        major, minor, _ = (int(part) for part in latest.semver.split("."))
        same = shape(read_schema(latest.folder)) == shape(schema)
        return f"{major}.{minor + 1}.0" if same else f"{major + 1}.0.0"


def shape(schema: ModelSchema) -> tuple[object, ...]:
    """Return what a client depends on: columns with types, task and classes; not vocabularies and ranges."""
    return tuple((column.name, column.type) for column in schema.columns), schema.task, schema.classes
