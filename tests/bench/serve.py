"""Serving against its peers, one JSON line a figure: python -m tests.bench.serve [--quick] [FIGURE ...].

Figures: rates (32 connections, one row a request), open (500 requests a second by a clock), rows256, variants,
replicas, start, swap, profile (a request's largest functions); all by default. --quick takes a second a run and repeats
nothing: to see that all runs, not to be quoted. --peers-python PATH: a Python with the peers that this one has not
(LitServe, BentoML; it must see this one's packages too); a peer that neither has is left out, with a line saying so.
wrk must be on the PATH (a package of Debian's).

All rows serve the same two MLPs of 256-256 (one ONNX file each) with one replica, process or worker, assign by the same
function, and log every prediction to Parquet by the same writer; what a peer does not do stands in its line (`lacks`).
`recorded` is what was found in the logs afterwards (a peer's last second may be missing). The rows of a figure are
measured in turn, each with its server started anew, on the same cores as the load, none pinned; a rate is the median of
the runs. A row with a refused or lost request has failed: how many is said, and no ratio is made of it. Ray's own A/B
with its defaults (max_ongoing_requests=5) collapses under 32 connections: its row is shown, and nothing is claimed from
it. MLflow's server has a protocol of its own and one model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.ports import free_port
from cluster.tracking import connect
from conf.schema import Tracking
from tests.bench.peers.figures import CORES, QUICK, Runs, left_out, say
from tests.bench.peers.ground import AB, HAS_SHADOW, NAME, ROOT, Ground, environment, why_no_answer
from tests.bench.peers.load import ARROW, JSON, Measured, body, whole, wrk
from tests.bench.peers.open_loop import Answer, drive
from tests.bench.peers.rows import PEERS, recorded, row

WARM_S, SECONDS, REPEATS = (1, 1, 1) if QUICK else (2, 5, 3)
RATE, OPEN_S = 500, 3 if QUICK else 20
SWAPS, SWAP_EVERY_S = (2 if QUICK else 5), 4.0
PATH, INSIDE = f"/{NAME}/predict", "tests.bench.peers.inside"


def loaded(ground: Ground, port: int, requests: Sequence[bytes], threads: int = 1) -> Measured:
    """Warm a server, then measure it."""
    into = ground.folder / "requests"
    wrk(port, requests, WARM_S, into, threads)
    return wrk(port, requests, SECONDS, into, threads)


def rates(ground: Ground) -> None:
    """Compare one replica with one process or worker of each peer."""
    there = {name: peer for name, peer in PEERS.items() if ground.python_for(peer.package)}
    for name in PEERS.keys() - there.keys():
        left_out(f"rates.{name}", f"{PEERS[name].package} is not installed")
    runs, logged = Runs(), dict.fromkeys(("ours", *there), 0)
    for _ in range(REPEATS):
        for name in logged:
            before = recorded(ground)
            with row(ground, name) as (port, requests):
                runs.add(name, loaded(ground, port, requests))
            logged[name] += recorded(ground) - before
    for name, count in logged.items():
        lacks = {"lacks": there[name].lacks} if name in there and there[name].lacks else {}
        runs.say("rates", name, recorded=count, **lacks)
    for name, peer in there.items():
        if not peer.collapses:
            stretch = {"stretch": peer.stretch} if peer.stretch else {}
            runs.compare("rates", "ours", name, peer.goal, **stretch)


def open_loop(ground: Ground) -> None:
    """Measure latency where requests come by a clock."""
    shadow = []
    if HAS_SHADOW:
        ground.registry.set_alias(NAME, "shadow", 2)
        shadow = ["traffic.shadow=[shadow]"]
    with ground.ours(AB, *shadow) as port:
        by_clock(ground, "ours", port, ground.requests(port, PATH, "rows"), bool(shadow))
    with row(ground, "fastapi") as (port, requests):
        by_clock(ground, "fastapi", port, requests, False)


def by_clock(ground: Ground, name: str, port: int, requests: Sequence[bytes], shadow: bool) -> None:
    """Run the clock in a process of its own, and print what it saw."""
    into = ground.folder / "requests"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    for i, request in enumerate(requests):
        (into / f"{i:03}.http").write_bytes(request)
    found = ask("tests.bench.peers.open_loop", str(port), str(into), str(RATE), str(OPEN_S))
    more = {"rate": RATE, "seconds": OPEN_S, "shadow": shadow, "failed": found["failed"]}
    more |= {"late_p99_ms": found["late_p99_ms"], "p99.9_ms": found["p99.9_ms"]}
    for key, goal in (("p50", 3), ("p99", 10)):
        value = found[f"{key}_ms"]
        met = {"goal": goal, "met": value <= goal and not found["failed"]} if name == "ours" else {}
        say(f"open.{name}.{key}", value, "ms", **met, **more)


def ask(module: str, *said: str) -> dict[str, float]:
    """Run a module in a process of its own; return the JSON that it printed."""
    command = [sys.executable, "-m", module, *said]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{command}: {ended.stderr[-3000:]}"
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def rows256(ground: Ground) -> None:
    """Compare requests of 256 rows, in each form, with the model step alone."""
    forms, runs = {"rows": JSON, "columns": JSON, "arrow": ARROW}, Runs()
    alone = []
    for _ in range(REPEATS):
        alone.append(ask(INSIDE, "step", str(ground.folder), "256", str(SECONDS))["rate"])
        with ground.ours(AB) as port:
            for form, kind in forms.items():
                runs.add(form, loaded(ground, port, [whole(port, PATH, body(form, ground.rows), kind)]))
    say("rows256.step", statistics.median(alone), "rows/s", runs=REPEATS)
    for form in forms:
        rate, failed = 256 * runs.median(form), runs.failed(form)
        ratio = None if failed else round(rate / statistics.median(alone), 3)
        said = {"peer": "step", "ratio": ratio, "goal": 0.8, "met": None if ratio is None else ratio >= 0.8}
        say(f"rows256.{form}", rate, "rows/s", runs=REPEATS, p99_ms=runs.median(form, "p99_ms"), failed=failed, **said)


def variants(ground: Ground) -> None:
    """Compare 20 variants with 2, in the application on uvicorn: the registry's aliases are fewer than 20."""
    runs = Runs()
    for _ in range(REPEATS):
        for count in ("2", "20"):
            port = free_port()
            command = [sys.executable, "-m", INSIDE, "variants", str(ground.folder), count, str(port)]
            with ground.server(command, PATH, "rows", port):
                runs.add(count, loaded(ground, port, ground.requests(port, PATH, "rows")))
    for count in runs:
        runs.say("variants", count, server="uvicorn")
    runs.compare("variants", "20", "2", 0.9)


def replicas(ground: Ground) -> None:
    """Measure what each added replica with a core of its own adds."""
    if CORES < 4:
        left_out("replicas", f"{CORES} cores: a second replica and the load have none of their own")
        return
    runs, counts = Runs(), range(1, CORES // 2 + 1)
    for _ in range(REPEATS):
        for count in counts:
            with ground.ours(AB, f"serving.num_replicas={count}") as port:
                runs.add(str(count), loaded(ground, port, ground.requests(port, PATH, "rows"), threads=count))
    for name in runs:
        runs.say("replicas", name)
    for count in counts[1:]:
        failed = {name: runs.failed(name) for name in ("1", str(count - 1), str(count)) if runs.failed(name)}
        added = runs.median(str(count)) - runs.median(str(count - 1))
        ratio = None if failed else round(added / runs.median("1"), 3)
        said = {"peer": "1", "ratio": ratio, "goal": 0.8, "met": None if ratio is None else ratio >= 0.8}
        say(f"replicas.added_by_{count}", added, "requests/s", **({"failed": failed} if failed else {}), **said)


def start(ground: Ground) -> None:
    """Measure serve.deploy on a head that runs, Serve itself not: to the first answer, and to the command's end."""
    took: dict[str, list[float]] = {"first_answer": [], "command": []}
    with ground.ours(AB) as port:
        for _ in range(REPEATS):
            ground.call("serve.stop", f"name={NAME}")
            sent, began = body("rows", ground.rows[:1]), time.monotonic()
            deploy = threading.Thread(
                target=ground.call, args=("serve.deploy", f"name={NAME}", f"serving.http.port={port}", AB)
            )
            deploy.start()
            while why_no_answer(port, PATH, sent, patience_s=0.5):
                assert deploy.is_alive(), "serve.deploy ended, and nothing answers"
                time.sleep(0.02)
            took["first_answer"].append(time.monotonic() - began)
            deploy.join()
            took["command"].append(time.monotonic() - began)
    for clock, seconds in took.items():
        value = statistics.median(seconds)
        goal = {"goal": 5, "met": value <= 5} if clock == "first_answer" else {}
        say(f"start.{clock}", value, "s", runs=REPEATS, worst=round(max(seconds), 3), **goal)


def swap(ground: Ground) -> None:
    """Measure from a change of an alias to the last answer of the old version, two replicas under steady load.

    After it each replica answers with the new one. Each new version is one that no replica has loaded.
    """
    client = connect(Tracking(), ground.cluster).client
    first = client.get_model_version(NAME, "1")
    moments, seen = [], list[Answer]()
    halves = ["serving.num_replicas=2", f"serving.cpus_per_replica={min(1.0, CORES / 4)}"]
    with ground.ours("traffic.weights={champion: 1.0}", *halves) as port:
        requests = ground.requests(port, PATH, "rows")
        seconds = (SWAPS + 1) * SWAP_EVERY_S
        load = threading.Thread(target=lambda: seen.extend(drive(port, requests, 200, seconds)))
        load.start()
        for _ in range(SWAPS):
            time.sleep(SWAP_EVERY_S)
            made = client.create_model_version(NAME, first.source, first.run_id, tags=first.tags)
            moments.append((time.perf_counter(), int(made.version)))
            ground.registry.set_alias(NAME, "champion", int(made.version))
        load.join()
    ground.registry.set_alias(NAME, "champion", 1)
    took = []
    for i, (moment, version) in enumerate(moments):
        until = moments[i + 1][0] if i + 1 < SWAPS else float("inf")
        after = [answer for answer in seen if moment < answer.done < until]
        assert any(answer.version == version for answer in after), f"version {version} never answered"
        took.append(max((answer.done for answer in after if answer.version != version), default=moment) - moment)
    failed = sum(answer.status != 200 for answer in seen)
    met = max(took) <= 3 and not failed
    say(
        "swap",
        max(took),
        "s, the worst",
        median=round(statistics.median(took), 4),
        goal=3,
        met=met,
        runs=SWAPS,
        failed=failed,
    )


def profile(ground: Ground) -> None:
    """Print where a request's time goes in the replica, without HTTP and Ray."""
    found = ask(INSIDE, "profile", str(ground.folder), "3200" if QUICK else "32000")
    say("profile.request", found["us"], "us a request, without the profiler")
    for one in found["largest"]:
        more = {"with_callees": round(one["with_callees"], 4), "calls": round(one["calls"], 2)}
        say(f"profile.{one['function']}", one["share"], "share of the time, callees left out", **more)


FIGURES = {
    "rates": rates,
    "open": open_loop,
    "rows256": rows256,
    "variants": variants,
    "replicas": replicas,
    "start": start,
    "swap": swap,
    "profile": profile,
}
WITH_WRK = ("rates", "rows256", "variants", "replicas")


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(FIGURES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peers-python", default="")
    said = parser.parse_args()
    asked = said.figures or list(FIGURES)
    if unknown := set(asked) - set(FIGURES):
        parser.error(f"{sorted(unknown)[0]} is no figure; there are {', '.join(FIGURES)}")
    if set(asked) & set(WITH_WRK) and not shutil.which("wrk"):
        print("wrk is not on the PATH; install it (apt-get install wrk).", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground(Path(folder), said.peers_python)
        ground.prepare()
        for name in asked:
            FIGURES[name](ground)
    return 0


if __name__ == "__main__":
    sys.exit(main())
