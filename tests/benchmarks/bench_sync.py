"""`hwbench sync` beside what people do without it, in one run on one store.

    python -m tests.benchmarks.bench_sync --runs 1000,10000 --rest-runs 300

Each case runs in a fresh process, so that its peak memory is its own and nothing is warm for it alone. The bare copy
is the floor: ADBC -> Arrow -> DuckDB of the same tables, with no fingerprint, no diff, no log. Prints a Markdown table;
figures are of one machine at one time, the ratios are what travels.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.make_store import make_store

TABLES = ("experiments", "experiment_tags", "runs", "tags", "params", "latest_metrics", "metrics")


def search_runs(uri: str, db: Path) -> None:
    """What MLflow offers: every run as a row of one wide frame (50,000 a call; no history), kept in DuckDB."""
    import duckdb
    import mlflow

    mlflow.set_tracking_uri(uri)
    frame = mlflow.search_runs(search_all_experiments=True, run_view_type=3, max_results=1_000_000)
    with duckdb.connect(str(db)) as connection:
        connection.register("frame", frame)
        connection.execute("CREATE TABLE runs AS FROM frame")


def search_and_histories(uri: str, db: Path) -> None:
    """What a user of MLflow's client would write to have what the mirror has: every point of every metric too."""
    import duckdb
    import mlflow
    import pandas as pd

    search_runs(uri, db)
    client = mlflow.MlflowClient()
    with duckdb.connect(str(db)) as connection:
        wide = connection.execute("FROM runs").df()
        points = [
            (run_id, point.key, point.value, point.timestamp, point.step)
            for column in wide.columns
            if column.startswith("metrics.")
            for run_id in wide.loc[wide[column].notna(), "run_id"]
            for point in client.get_metric_history(run_id, column.removeprefix("metrics."))
        ]
        frame = pd.DataFrame(points, columns=["run_id", "key", "value", "timestamp", "step"])
        connection.register("points", frame)
        connection.execute("CREATE TABLE history AS FROM points")


def bare_copy(uri: str, db: Path) -> None:
    """The floor: the tables as they are, column types as the driver guesses them."""
    import duckdb
    from adbc_driver_sqlite import dbapi

    path = uri.removeprefix("sqlite:///")
    with duckdb.connect(str(db)) as target, dbapi.connect(f"file:{path}?mode=ro") as source, source.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"SELECT * FROM {table}")
            target.register("incoming", cursor.fetch_record_batch())
            target.execute(f"CREATE TABLE {table} AS FROM incoming")


def hwbench(uri: str, db: Path) -> None:
    """One `hwbench sync`, without evidence."""
    from hwbench_mlflow.warehouse.readers.choose import open_reader
    from hwbench_mlflow.warehouse.sync import sync

    print(json.dumps(sync(open_reader(uri), db).to_json()), file=sys.stderr)


CASES: dict[str, Callable[[str, Path], None]] = {
    "search_runs": search_runs, "search_and_histories": search_and_histories, "bare_copy": bare_copy,
    "hwbench": hwbench,
}  # fmt: skip


def one(case: str, uri: str, db: Path) -> None:
    """Run a case here; print its seconds (imports of duckdb and the driver excluded) and this process's peak."""
    import duckdb  # noqa: F401
    from adbc_driver_sqlite import dbapi  # noqa: F401

    if case.startswith("search_"):
        import mlflow  # noqa: F401

    warnings.simplefilter("ignore")
    begin = time.perf_counter()
    CASES[case](uri, db)
    seconds = time.perf_counter() - begin
    # Not getrusage: its peak outlives exec, so a child would report its parent's.
    status = Path("/proc/self/status").read_text()
    peak_mb = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb}))


def measured(case: str, uri: str, db: Path) -> tuple[float, float]:
    """``(seconds, peak MB)`` of a case in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_sync", "--one", case, uri, str(db)]
    environ = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
    if case == "hwbench":
        said = json.loads([line for line in done.stderr.splitlines() if line.startswith("{")][-1])
        parts = ", ".join(f"{k} {v:.2f}" for k, v in said["seconds"].items())
        print(f"  hwbench: {said['runs_added']} added, {said['runs_changed']} changed; {parts}", file=sys.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["seconds"], found["peak_mb"]


def compared(
    uri: str, folder: Path, edit: Callable[[], None], cases: list[str], turns: int = 1
) -> list[tuple[str, float, float]]:
    """``(what, seconds, peak MB)`` of the other ``cases`` and of three syncs on one store, the least of all turns."""
    names = {"search_runs": "mlflow.search_runs into DuckDB", "bare_copy": "bare ADBC copy into DuckDB",
             "search_and_histories": "the same and `get_metric_history` of each metric"}  # fmt: skip
    found: dict[str, list[tuple[float, float]]] = {}
    for turn in range(turns):
        here = folder / f"turn {turn}"
        here.mkdir()
        for case in cases:
            found.setdefault(names[case], []).append(measured(case, uri, here / f"{case}.duckdb"))
        for what in ("first sync", "nothing changed", "one run changed"):
            if what == "one run changed":
                edit()
            found.setdefault(f"hwbench: {what}", []).append(measured("hwbench", uri, here / "hwbench.duckdb"))
        shutil.rmtree(here)
    return [(name, min(s for s, _ in all_of), max(mb for _, mb in all_of)) for name, all_of in found.items()]


def edit_one_tag(store: Path) -> None:
    """As MLflow would: one tag of one run."""
    connection = sqlite3.connect(store)
    connection.execute("UPDATE tags SET value = value || ' edited' WHERE rowid = (SELECT max(rowid) FROM tags)")
    connection.commit()
    connection.close()


def table(title: str, rows: list[tuple[str, float, float]]) -> str:
    """Markdown, with each case against the first row's and against the first sync."""
    first = next(s for name, s, _ in rows if name == "hwbench: first sync")
    lines = [f"\n{title}\n", f"| | seconds | speed, {rows[0][0]} = 1 | time, first sync = 1 | peak MB |",
             "| --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    lines += [f"| {n} | {s:.3f} | {rows[0][1] / s:.1f} | {s / first:.3f} | {mb:.0f} |" for n, s, mb in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="1000", help="sizes of the SQLite stores, with commas")
    parser.add_argument("--rest-runs", type=int, default=0, help="size of the store behind a real mlflow server")
    parser.add_argument("--rest-workers", type=int, default=1, help="of that server; MLflow's own default is 4")
    parser.add_argument("--history", type=int, default=1, help="points for each metric")
    parser.add_argument("--without-search-runs", action="store_true", help="for sizes where it takes minutes")
    parser.add_argument("--without-histories", action="store_true", help="`get_metric_history` takes minutes too")
    parser.add_argument("--turns", type=int, default=1, help="the least of so many is shown, a busy machine's way")
    parser.add_argument("--store", type=Path, help="a store of make_store's instead; one tag of it is edited")
    parser.add_argument("--one", nargs=3, metavar=("CASE", "URI", "DB"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one[0], options.one[1], Path(options.one[2]))
        return
    folder = Path(tempfile.mkdtemp(prefix="hwbench-bench-"))
    try:
        sql_cases = ["bare_copy"] if options.without_search_runs else ["search_runs", "bare_copy"]
        if options.store is not None:
            store = options.store.resolve()
            rows = compared(
                f"sqlite:///{store}", folder, functools.partial(edit_one_tag, store), sql_cases, options.turns
            )
            print(table(f"SQLite, {store.name}", rows), flush=True)
            return
        for runs in [int(n) for n in options.runs.split(",") if n]:
            here = folder / str(runs)
            here.mkdir()
            store = here / "mlflow.db"
            make_store(store, runs, history=options.history)
            rows = compared(
                f"sqlite:///{store}", here, functools.partial(edit_one_tag, store), sql_cases, options.turns
            )
            print(table(f"SQLite, {runs:,} runs, {options.history} point(s) a metric", rows), flush=True)
        if options.rest_runs:
            title = f"mlflow server with {options.rest_workers} worker(s), {options.rest_runs:,} runs"
            print(table(title, over_rest(folder, options)), flush=True)
    finally:
        shutil.rmtree(folder)


def over_rest(folder: Path, options: argparse.Namespace) -> list[tuple[str, float, float]]:
    """The same against a real server on this machine."""
    from tests.warehouse.servers import serve

    store = folder / "served.db"
    peers = ["search_runs"] if options.without_histories else ["search_runs", "search_and_histories"]
    make_store(store, options.rest_runs, history=options.history)
    with serve(folder, store, "--workers", str(options.rest_workers)) as tracking:
        return compared(tracking.url, folder, functools.partial(edit_one_tag, store), peers, options.turns)


if __name__ == "__main__":
    main()
