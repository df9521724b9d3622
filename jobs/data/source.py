"""Where a table comes from: a CSV or Parquet file, folder, glob or URI, or a function that returns one."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, fs, parquet
from pyarrow import dataset as arrow

from conf.component import make
from conf.errors import BadInput
from conf.schema import Dataset

BATCH_ROWS = 32_768  # read at a time, of what is not read whole
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


@dataclass(frozen=True)
class Files:
    """The files of a dataset that is not read whole, all of one format."""

    filesystem: fs.FileSystem
    paths: list[str]
    format: str  # csv, parquet
    schema: pa.Schema

    def scan(self) -> Iterator[pa.Table]:
        """Yield the rows in order, some at a time; raises BadInput where a file cannot be read."""
        files = arrow.dataset(self.paths, self.schema, self.arrow_format, self.filesystem)
        # one thread: several read on, far ahead of who takes the rows
        batches = files.to_batches(batch_size=BATCH_ROWS, batch_readahead=2, fragment_readahead=1, use_threads=False)
        with _readable(",".join(self.paths)):
            for batch in batches:
                yield pa.Table.from_batches([batch])

    @property
    def arrow_format(self) -> arrow.FileFormat:
        """Return the format as pyarrow reads it."""
        return _format(self.format)


def files(dataset: Dataset) -> Files:
    """Return the files of a dataset; raises BadInput for one that is made by a function, or of mixed formats."""
    if dataset.source is not None:
        remedy = "write it to Parquet and say dataset.path, or leave dataset.loading out"
        raise BadInput("dataset.loading", dataset.loading, "reads files, and dataset.source makes a table", remedy)
    filesystem, paths = _files(str(dataset.path))
    formats = {"parquet" if path.endswith(".parquet") else "csv" for path in paths}
    if len(formats) > 1:
        raise BadInput("dataset.path", dataset.path, "has CSV and Parquet files", "give one format to stream")
    made = _format(formats.pop())
    with _readable(str(dataset.path)):
        found = arrow.FileSystemDatasetFactory(filesystem, paths, made).inspect(
            promote_options="permissive", fragments=None
        )
    return Files(filesystem, paths, made.default_extname, found)


def _format(name: str) -> arrow.FileFormat:
    if name == "parquet":
        ahead = arrow.ParquetFragmentScanOptions(pre_buffer=False)  # else all bytes of a file are held
        return arrow.ParquetFileFormat(default_fragment_scan_options=ahead)
    return arrow.CsvFileFormat(convert_options=csv.ConvertOptions(strings_can_be_null=True))


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
    with _readable(path):
        if path.endswith(".parquet"):
            with filesystem.open_input_file(path) as stream:
                return parquet.read_table(stream)
        with filesystem.open_input_stream(path) as stream:  # decompresses .gz by its name
            return _text(path, csv.read_csv(stream, convert_options=csv.ConvertOptions(strings_can_be_null=True)))


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Say in a sentence what keeps a file from being read."""
    try:
        yield
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
