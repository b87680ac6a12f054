"""How long what decides takes over many published results: four commands beside pandas, and the dashboard's pages.

Run from the repository's top: ``python -m tests.benchmarks.bench_decide [--rows N] [--folder DIR] [--keep]``. The rows
are one invented row many times, with medians drawn anew, over models, batch sizes, revisions and a year; published
without a gate, into a scratch folder. Each part is a process of its own; the time is after imports, and holds opening
the file and checking the digests of all that is read. Peer: pandas reads the columns from the same file, checks
nothing, and takes medians and a bootstrap of medians by configuration. A page of the dashboard is asked for over HTTP,
as a browser does: first of a server that has opened nothing, then again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from queue import Queue
from urllib.request import urlopen

import duckdb

from hwbench_mlflow.rules import Outcome, RuleKind
from hwbench_mlflow.warehouse import database
from hwbench_mlflow.warehouse.publish import Publication, publish
from tests.benchmarks.bench_gate import many

MODELS = 40
BATCHES = 5
WAREHOUSE = "rows.duckdb"


def build(folder: Path, rows: int) -> dict[str, float]:
    """A published file of so many rows in MODELS x BATCHES configurations, half of them at each of two revisions."""
    for old in (WAREHOUSE, "published.duckdb"):
        (folder / old).unlink(missing_ok=True)
    many(folder, 0, rows)
    with duckdb.connect(str(folder / WAREHOUSE)) as connection:
        connection.execute(
            f"""SELECT setseed(0.5);
                CREATE TEMP TABLE one AS FROM models SEMI JOIN performance_results USING (model_id);
                INSERT INTO models SELECT one.* REPLACE ('m' || i AS model_id, 'model ' || i AS model_name)
                FROM one, range({MODELS}) r(i);
                CREATE TEMP TABLE drawn AS SELECT run_id, row_number() OVER () AS i FROM performance_results;
                UPDATE performance_results p SET model_id = 'm' || (i % {MODELS}),
                    batch_size = 1 << ((i // {MODELS}) % {BATCHES})::INTEGER,
                    git_commit = repeat(CASE WHEN (i // ({MODELS} * {BATCHES})) % 2 = 0 THEN 'a' ELSE 'b' END, 40),
                    latency_ms_p50 = 10 * exp(0.02 * sqrt(-2 * ln(1 - random())) * cos(6.2831853 * random())),
                    throughput_items_per_s = 100 * exp(0.02 * (random() - 0.5)),
                    kernel = '6.' || (i * 5 // {rows}), hostname = 'host ' || (hash(i) % 100),
                    packages = MAP {{'torch': '2.' || (i * 7 // {rows}), 'numpy': '2.4.6', 'openvino': '2026.4.1'}},
                    created_at = TIMESTAMP '2026-01-01' + to_seconds(30 * i),
                    started_at = TIMESTAMP '2026-01-01' + to_seconds(30 * i - 20)
                FROM drawn WHERE drawn.run_id = p.run_id"""
        )
    none = Outcome(
        rule="none", suite="none", table="none", kind=RuleKind.ROW, passed=False, why="-", what_to_do="-",
        reason="a benchmark's rows are looked at by no gate",
    )  # fmt: skip
    what = Publication(gate_id="bench", gated_at=datetime(2027, 1, 1), outcomes=[none], quarantine=[], suites={})
    with database.writer(folder / WAREHOUSE) as connection:
        assert publish(connection, folder / "published.duckdb", what).rows_real == rows
    return {}


def command(name: str, *arguments: str) -> dict[str, float]:
    """One command as the command line runs it, after imports; a regression that is open is an answer too."""
    import numpy as np
    import pandas as pd
    import pyarrow.compute
    import ruptures
    import scipy.stats

    from hwbench_mlflow.cli.main import root
    from hwbench_mlflow.errors import Refused
    from hwbench_mlflow.reports import comparison, coverage, recommendation, regressions  # noqa: F401
    from hwbench_mlflow.warehouse import candidates, history, pairs  # noqa: F401

    del np, pd, pyarrow, ruptures, scipy
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        begin = time.perf_counter()
        with contextlib.suppress(Refused):
            root.main([name, *arguments, "--json"], standalone_mode=False)
        seconds = time.perf_counter() - begin
    # A file that is refused answers fastest of all.
    assert json.loads(shown.getvalue())["schema_version"] == 1, shown.getvalue()[:500]
    return {"s": seconds}


def pandas(folder: Path, question: str) -> dict[str, float]:
    """What a user would write."""
    import numpy as np
    import pandas as pd

    keys = ["model_name", "platform", "device_name", "batch_size", "effective_precision", "threads", "profile"]
    columns = [*keys, "latency_ms_p50", "throughput_items_per_s", "created_at", "git_commit", "stable", "run_id"]
    begin = time.perf_counter()
    with duckdb.connect(str(folder / "published.duckdb"), read_only=True) as connection:
        frame: pd.DataFrame = connection.sql(f"SELECT {', '.join(columns)} FROM real_results").df()
    groups = frame.groupby([*keys, *(["git_commit"] if question == "compare" else [])], dropna=False)
    if question == "compare":
        draw = np.random.default_rng(0)
        for _, group in groups:
            values = group.latency_ms_p50.to_numpy()
            np.median(values[draw.integers(0, len(values), (200, len(values)))], axis=1)  # a tenth of our resamples
    elif question == "regressions":
        for _, group in groups:
            last = group.sort_values("created_at").tail(200).latency_ms_p50
            last.rolling(4).median().pct_change(4).abs().max()
    elif question == "recommend":
        groups.agg(
            {"latency_ms_p50": ["median", "min", "max", "std"], "throughput_items_per_s": "median", "run_id": "last"}
        )
    else:
        frame.pivot_table(
            index="model_name", columns=["platform", "effective_precision"], values="run_id", aggfunc="count"
        )
    return {"s": time.perf_counter() - begin}


def page(folder: Path, name: str) -> dict[str, float]:
    """One page of a server that has just started, after imports: opening, the first answer, the one after it."""
    from hwbench_mlflow.board import Gates  # noqa: F401
    from hwbench_mlflow.cli.dashboard import Board
    from hwbench_mlflow.dashboard import serve
    from hwbench_mlflow.reports import dashboard, figures  # noqa: F401
    from hwbench_mlflow.warehouse import overview, summarize  # noqa: F401

    address: Queue[str] = Queue()
    board = Board(folder / "published.duckdb", folder / WAREHOUSE)
    begin = time.perf_counter()
    board.open()
    taken = [time.perf_counter() - begin]
    threading.Thread(target=serve, args=(board, "127.0.0.1", 0, address.put), daemon=True).start()
    at = address.get()
    for _ in range(2):
        begin = time.perf_counter()
        with urlopen(at + name) as answer:
            assert answer.status == 200
            assert len(answer.read()) > 1000
        taken.append(time.perf_counter() - begin)
    return {"open": taken[0], "s": taken[1], "again": taken[2]}


COMMANDS: dict[str, tuple[str, ...]] = {
    "compare": ("git:aaaaaaaa", "git:bbbbbbbb"),
    "regressions": (),
    "recommend": ("--model", "model 1"),
    "coverage": (),
}
PAGES = ("index", "results", "coverage", "trends", "regressions", "quarantine", "machines")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--keep", action="store_true", help="Use the published file that is in the folder.")
    parser.add_argument("--part")
    options = parser.parse_args()
    if options.part:
        who, _, name = options.part.partition(":")
        at = ("--published", str(options.folder / "published.duckdb"), "--db", str(options.folder / WAREHOUSE))
        if who == "build":
            found = build(options.folder, options.rows)
        elif who == "page":
            found = page(options.folder, name)
        else:
            found = command(name, *COMMANDS[name], *at) if who == "hwbench" else pandas(options.folder, name)
        found["gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)

        def part(name: str) -> dict[str, float]:
            words = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.bench_decide", "--part", name]
            words += ["--folder", str(folder), "--rows", str(options.rows)]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            return result

        if not options.keep:
            part("build")
        print(f"{options.rows} results   hwbench s   peak GiB    pandas s   peak GiB")
        for name in COMMANDS:
            ours, theirs = part(f"hwbench:{name}"), part(f"pandas:{name}")
            cells = (ours["s"], ours["gib"], theirs["s"], theirs["gib"])
            print(f"{name:<16}" + "".join(f"{value:>11.2f}" for value in cells), flush=True)
        print("\ndashboard          open s    first s    again s   peak GiB")
        for name in PAGES:
            asked = part(f"page:{name}")
            print(
                f"{name:<16}" + "".join(f"{asked[what]:>11.2f}" for what in ("open", "s", "again", "gib")), flush=True
            )


if __name__ == "__main__":
    main()
