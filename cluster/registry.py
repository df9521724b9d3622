"""The registry decides: versions, aliases and the traffic policy. Every write to them goes through this file."""

from __future__ import annotations

import json
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
from cluster.tracking import Run, Tracking
from conf.errors import BadInput, nearest
from conf.schema import Traffic

ALIASES = ("champion", "challenger", "shadow", "staging")
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

    def write_policy(self, name: str, traffic: Traffic) -> None:
        """Store the traffic policy with the registered model; serving follows. Raises BadInput for bad weights."""
        check_weights(traffic)
        missing = sorted(set(traffic.weights) - set(self.aliases(name)))
        if missing:
            remedy = f"run: python -m jobs.promote name={name} version=latest alias={missing[0]}"
            raise BadInput("traffic.weights", missing[0], f"is no alias of {name}", remedy)
        written = json.dumps({"ab_test": traffic.ab_test, "weights": traffic.weights})
        self._client.set_registered_model_tag(name, POLICY, written)

    def policy(self, name: str) -> Traffic:
        """Return the traffic policy; without one the champion answers everything. Raises BadInput for a spoilt one."""
        self._check_name(name)
        written = self._client.get_registered_model(name).tags.get(POLICY)
        if not written:
            return Traffic(weights={"champion": 1.0})
        try:
            traffic = Traffic(**json.loads(written))
            check_weights(traffic)
        except (ValueError, TypeError, AttributeError) as error:
            raise BadInput(POLICY, written[:60], "is no traffic policy", "run python -m serve.deploy again") from error
        return traffic

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
        same = _shape(read_schema(latest.folder)) == _shape(schema)
        return f"{major}.{minor + 1}.0" if same else f"{major + 1}.0.0"


def _shape(schema: ModelSchema) -> tuple[object, ...]:
    """Return what a client depends on: columns with types, task and classes; not vocabularies and ranges."""
    return tuple((column.name, column.type) for column in schema.columns), schema.task, schema.classes


def check_weights(traffic: Traffic) -> None:
    """Raise BadInput unless the weights are shares of aliases that sum to 1."""
    for alias, weight in traffic.weights.items():
        if alias not in ALIASES:
            raise BadInput("traffic.weights", alias, "is not an alias", nearest(alias, ALIASES))
        if not 0 <= weight <= 1:
            raise BadInput(f"traffic.weights.{alias}", weight, "is out of range", "give a value from 0 to 1")
    total = sum(traffic.weights.values())
    if abs(total - 1) > 1e-6:
        raise BadInput("traffic.weights", str(traffic.weights), f"sum to {total:g}", "give weights that sum to 1")
