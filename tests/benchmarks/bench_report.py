"""How long a report of many results takes, beside pandas that reads the same file and writes a bare table.

Run from the repository's top: ``python -m tests.benchmarks.bench_report [--rows N ...] [--folder DIR]``. The rows are
one invented row many times, spread over models, batch sizes and time, and are published without a gate: they are kept
in a scratch folder, and no gate would let them pass.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import duckdb

from hwbench_mlflow.rules import Outcome, RuleKind
from hwbench_mlflow.summary import Filters
from hwbench_mlflow.warehouse import database
from hwbench_mlflow.warehouse.publish import Publication, publish
from hwbench_mlflow.warehouse.published import open_published
from hwbench_mlflow.warehouse.summarize import CONFIGURATION, summarize
from tests.benchmarks.bench_gate import many

MODELS = 40
BATCHES = 5


def build(folder: Path, rows: int) -> dict[str, float]:
    """A published file of so many rows in MODELS x BATCHES configurations."""
    many(folder, 0, rows)
    with duckdb.connect(str(folder / "rows.duckdb")) as connection:
        connection.execute(
            f"""CREATE TEMP TABLE one AS FROM models SEMI JOIN performance_results USING (model_id);
                INSERT INTO models SELECT one.* REPLACE ('m' || i AS model_id, 'model ' || i AS model_name)
                FROM one, range({MODELS}) r(i);
                UPDATE performance_results SET model_id = 'm' || (hash(run_id) % {MODELS}),
                    batch_size = 1 << (hash(run_id || 'b') % {BATCHES})::INTEGER,
                    created_at = created_at + to_seconds((hash(run_id || 't') % 10000000)::BIGINT)"""
        )
    none = Outcome(
        rule="none", suite="none", table="none", kind=RuleKind.ROW, passed=False, why="-", what_to_do="-",
        reason="a benchmark's rows are looked at by no gate",
    )  # fmt: skip
    what = Publication(gate_id="bench", gated_at=datetime(2030, 1, 1), outcomes=[none], quarantine=[], suites={})
    with database.writer(folder / "rows.duckdb") as connection:
        assert publish(connection, folder / "published.duckdb", what).rows_real == rows
    (folder / "rows.duckdb").unlink()
    return {}


def ours(folder: Path, rows: int) -> dict[str, float]:
    """Opening and checking the file, the summary, the figures, the page; after imports."""
    import matplotlib.figure  # noqa: F401

    from hwbench_mlflow.reports.figures import draw
    from hwbench_mlflow.reports.page import to_html

    begin = time.perf_counter()
    with open_published(folder / "published.duckdb") as found:
        opened = time.perf_counter()
        summary = summarize(found, Filters(), simulated=False, stale=None)
    summed = time.perf_counter()
    assert summary.real.results == rows
    page = to_html(summary, draw(summary))
    end = time.perf_counter()
    return {
        "open_s": opened - begin, "summary_s": summed - opened, "page_s": end - summed, "s": end - begin,
        "mb": len(page.encode()) / 1e6,
    }  # fmt: skip


def pandas(folder: Path, rows: int) -> dict[str, float]:
    """What a user would write: all rows into a frame, the last of each configuration, ``to_html``."""
    import pandas as pd  # noqa: F401

    begin = time.perf_counter()
    with duckdb.connect(str(folder / "published.duckdb"), read_only=True) as connection:
        frame = connection.sql("FROM real_results").df()
    assert len(frame) == rows
    last = frame.sort_values("created_at").groupby(list(CONFIGURATION), dropna=False).tail(1)
    page = last.to_html()
    return {"s": time.perf_counter() - begin, "mb": len(page.encode()) / 1e6}


PARTS = {"build": build, "ours": ours, "pandas": pandas}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--part", choices=PARTS)
    options = parser.parse_args()
    if options.part:
        found = PARTS[options.part](options.folder, options.rows[0])
        found["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(found))
        return
    names = ("open s", "summary s", "page s", "MB", "peak GiB")
    print(f"{'rows':>9}  part    {'s':>7}  " + "  ".join(name.rjust(9) for name in names))
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            for part in PARTS:
                command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.bench_report", "--part", part]
                command += ["--folder", scratch, "--rows", str(rows)]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
                if part == "build":
                    continue
                found = json.loads(done.stdout.splitlines()[-1])
                cells = [f"{found[k]:.2f}" if k in found else "" for k in ("open_s", "summary_s", "page_s")]
                cells += [f"{found[k]:.2f}" for k in ("mb", "peak_gib")]
                line = "  ".join(cell.rjust(9) for cell in cells)
                print(f"{rows:>9}  {part:<6}  {found['s']:>7.2f}  {line}", flush=True)


if __name__ == "__main__":
    main()
