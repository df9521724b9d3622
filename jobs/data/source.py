"""Where a table comes from: a CSV or Parquet file, folder, glob or URI, or a function that returns one."""

from __future__ import annotations

import glob
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, fs, parquet

from conf.component import make
from conf.errors import BadInput
from conf.schema import Dataset

_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def read(dataset: Dataset) -> pa.Table:
    """Return the table of a dataset, columns as they are; raises BadInput for what cannot be read."""
    if dataset.source is not None:
        return make("dataset", dataset.source, pa.Table)
    if dataset.path is None:
        raise BadInput("dataset.path", None, "is not given", "add dataset.path=FILE, or a dataset.source")
    filesystem, paths = _files(dataset.path)
    tables = [_one_file(filesystem, path) for path in paths]
    try:
        return pa.concat_tables(tables, promote_options="permissive") if len(tables) > 1 else tables[0]
    except pa.ArrowException as error:
        raise BadInput("dataset.path", dataset.path, f"has files that differ ({error})", "give one schema") from error


def _files(path: str) -> tuple[fs.FileSystem, list[str]]:
    """Return the files behind a path, folder, glob or URI, in order of their names."""
    if "://" in path:
        try:
            filesystem, inside = fs.FileSystem.from_uri(path)
            found = filesystem.get_file_info(fs.FileSelector(inside, allow_not_found=True, recursive=True))
            paths = [info.path for info in found if info.is_file] or [inside]
        except (pa.ArrowException, OSError) as error:
            raise BadInput("dataset.path", path, f"cannot be reached ({error})", "check the URI") from error
        return filesystem, sorted(p for p in paths if p.endswith(_SUFFIXES))
    local = Path(path).expanduser()
    names = sorted(glob.glob(str(local / "**" / "*") if local.is_dir() else str(local), recursive=True))
    if local.is_file():
        names = [str(local)]
    files = [name for name in names if Path(name).is_file() and name.endswith(_SUFFIXES)]
    if not files:
        bound = f"has no {' or '.join(_SUFFIXES)} file" if names else "does not exist"
        raise BadInput("dataset.path", path, bound, "give a CSV or Parquet file, a folder, a glob or a URI")
    return fs.LocalFileSystem(), files


def _one_file(filesystem: fs.FileSystem, path: str) -> pa.Table:
    try:
        if path.endswith(".parquet"):
            with filesystem.open_input_file(path) as stream:
                return parquet.read_table(stream)
        with filesystem.open_input_stream(path) as stream:  # decompresses .gz by its name
            return _text(path, csv.read_csv(stream, convert_options=csv.ConvertOptions(strings_can_be_null=True)))
    except (pa.ArrowException, OSError) as error:
        said = str(error).splitlines()[0].rstrip(".")
        if "invalid UTF8" in said or "invalid UTF-8" in said:
            raise BadInput("dataset.path", path, f"is not UTF-8 ({said})", "save it as UTF-8") from error
        if "Empty CSV file" in said:
            raise BadInput("dataset.path", path, "is empty", "give a table with a header and rows") from error
        raise BadInput("dataset.path", path, f"cannot be read ({said})", "give valid CSV or Parquet") from error


def _text(path: str, table: pa.Table) -> pa.Table:
    """Refuse what pyarrow could only read as bytes."""
    for field in table.schema:
        if pa.types.is_binary(field.type):
            raise BadInput("dataset.path", path, f"is not UTF-8 (column {field.name})", "save it as UTF-8")
    return table
