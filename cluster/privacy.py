"""Privacy: which requests are recorded, and which of their columns are left out or written as a keyed hash."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cluster.columns import ModelSchema
from conf.errors import BadInput, nearest
from conf.service import Records

UNIT = "unit"  # of the record itself, not of the model's columns: often a person
_SPAN = 2.0**64


@dataclass(frozen=True)
class Privacy:
    """What is kept of predictions: a share of the requests, without some columns, others hashed with a key."""

    sample: float = 1.0
    omit: frozenset[str] = frozenset()
    hash: frozenset[str] = frozenset()
    key: bytes = b""

    @classmethod
    def of(cls, said: Records, storage: Path) -> Privacy:
        """Return what the settings say; the key is made where there is none yet."""
        key = record_key(storage) if said.hash else b""
        return cls(said.sample, frozenset(said.omit), frozenset(said.hash), key)

    def sampled(self, request_id: str) -> bool:
        """Tell whether a request is recorded: the same for a request sent again, and on every replica."""
        if self.sample >= 1:
            return True
        digest = hashlib.blake2b(request_id.encode("utf-8", "replace"), digest_size=8, person=b"sample").digest()
        return int.from_bytes(digest, "big") < self.sample * _SPAN

    def kind(self, column: str, kind: pa.DataType) -> pa.DataType:
        """Return the type that a column is recorded as."""
        return pa.string() if column in self.hash else kind

    def apply(self, column: str, values: pa.Array) -> pa.Array:
        """Return the values of a column as they are recorded; null stays null."""
        if column in self.omit:
            return pa.nulls(len(values), values.type)
        if column not in self.hash:
            return values
        coded = values.cast(pa.string()).dictionary_encode()
        hashed = [None if text is None else self._hashed(text) for text in coded.dictionary.to_pylist()]
        return pa.array(hashed, pa.string()).take(coded.indices)

    def _hashed(self, text: str) -> str:
        return hashlib.blake2b(text.encode(), digest_size=8, key=self.key).hexdigest()


def check_columns(said: Records, schema: ModelSchema) -> None:
    """Raise BadInput for a column to be left out or hashed that the model does not have, or that is to be both."""
    known = [*(column.name for column in schema.columns), UNIT]
    for key, names in (("omit", said.omit), ("hash", said.hash)):
        for name in names:
            if name not in known:
                raise BadInput(f"serving.records.{key}", name, "is no column of the model", nearest(name, known))
    for name in said.hash:
        if name in said.omit:
            raise BadInput("serving.records.hash", name, "is left out by serving.records.omit too", "give one of them")


def record_key(storage: Path) -> bytes:
    """Return the key of the hashes, made on first use, readable by this user alone; the same for all who ask."""
    path = storage / "records" / "key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f"key-{secrets.token_hex(8)}")
        try:
            with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another replica was first: its key counts
                path.hardlink_to(own)  # whole, or not there
        finally:
            own.unlink(missing_ok=True)
    return path.read_bytes()
