"""What a batch costs beside what it measures.

    python -m tests.benchmarks.bench_batch

A real batch of a tiny model, with fresh worker processes as always. Its own cost is the batch's wall time, from the
command to the summary, without what each cell's result says that it took itself (the runner's clock: probing, loading,
warming up, measuring, checking, reference). Starting Python and importing MLflow count as the batch's own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hwbench_mlflow.bundle import BUNDLED
from hwbench_mlflow.codec import decode_result
from hwbench_mlflow.evidence import RESULT_FILE

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 0.03


def cells_of(uri: str, folder: Path, run_ids: list[str]) -> list[float]:
    """Seconds of each cell, by the monotonic clock in its evidence."""
    from hwbench_mlflow.tracking import ArtifactFiles, Store

    assert RESULT_FILE in BUNDLED
    store = Store(uri)
    seconds = []
    for run_id in run_ids:
        artifact_uri = store.client.get_run(run_id).info.artifact_uri
        (data,) = ArtifactFiles(uri).fetch(run_id, artifact_uri, [RESULT_FILE]).values()
        seconds.append(decode_result(data).monotonic_ns / 1e9)
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smallest", action="store_true", help="two cells of the smoke profile: only to see it run")
    small = parser.parse_args().smallest
    sizes, profile = ("1,2", "smoke") if small else ("1,2,4,8", "quick")
    with tempfile.TemporaryDirectory(prefix="hwbench-bench-") as name:
        folder = Path(name)
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        environ = {**os.environ, "HWBENCH_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
        command = [
            sys.executable, "-m", "hwbench_mlflow", "batch", "--models", "bert-tiny", "--hardware", "cpu",
            "--batch-sizes", sizes, "--profile", profile, "--weights", "random", "--json",
        ]  # fmt: skip
        subprocess.run(  # a store that is there: making one takes MLflow seconds, once
            [*command, "--tracking-uri", uri, "--dry-run"], cwd=ROOT, env=environ, check=True, capture_output=True
        )
        begun = time.perf_counter()
        done = subprocess.run(
            [*command, "--tracking-uri", uri], cwd=ROOT, env=environ, check=True, capture_output=True, text=True
        )
        wall = time.perf_counter() - begun
        cells = cells_of(uri, folder, [cell["run_id"] for cell in json.loads(done.stdout)["cells"]])
    own = wall - sum(cells)
    print(f"| {len(cells)} cells, profile {profile} | |")
    print("| --- | ---: |")
    print(f"| whole batch, s | {wall:.2f} |")
    print(f"| its measurements and model loads, s | {sum(cells):.2f} |")
    print(f"| its own cost, s | {own:.2f} |")
    print(f"| its own cost, share of the measurements (at most {LIMIT:.0%}) | {own / sum(cells):.2%} |")


if __name__ == "__main__":
    main()
