"""What a batch costs beside what it measures, and what two devices side by side take.

    python -m tests.benchmarks.bench_batch
    python -m tests.benchmarks.bench_batch --part devices

Real batches of a tiny model, with fresh worker processes as always. A batch's own cost is its wall time, from the
command to the summary, without what each cell's result says that it took itself (the runner's clock: probing, loading,
warming up, measuring, checking, reference). Starting Python and importing MLflow count as the batch's own. A result is
sent while the next cell's worker starts: that time is inside a cell's clock, and said apart.

Two devices: the CPU by torch and by OpenVINO, pinned to a core each, against the longer of the two.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hwbench_mlflow.codec import decode_result
from hwbench_mlflow.evidence import RESULT_FILE

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 0.03
PARTS = ("cost", "devices")
SENDING = "seconds in before_timing: "


@dataclass(frozen=True, slots=True)
class Timed:
    """A finished batch: seconds of all of it, of each platform's cells, and of sending beside starting workers."""

    wall_s: float
    cells_s: dict[str, list[float]]
    sending_s: float


def timed(options: Sequence[str]) -> Timed:
    """Run a batch in a process, a home and a store of its own."""
    with tempfile.TemporaryDirectory(prefix="hwbench-bench-") as name:
        folder = Path(name)
        uri = f"sqlite:///{shutil.copyfile(_blank_store(), folder / 'mlflow.db')}"
        environ = {**os.environ, "HWBENCH_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
        given = [*options, "--weights", "random", "--tracking-uri", uri, "--json"]
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.bench_batch", "--inner", "batch", *given],
            cwd=ROOT, env=environ, check=False, capture_output=True, text=True,
        )  # fmt: skip
        wall = time.perf_counter() - begun
        if done.returncode != 0:
            raise SystemExit(f"the batch failed:\n{done.stdout}\n{done.stderr}")
        cells = json.loads(done.stdout)["cells"]
        seconds: dict[str, list[float]] = {}
        for cell, taken in zip(cells, _seconds_of(uri, [cell["run_id"] for cell in cells]), strict=True):
            seconds.setdefault(cell["request"]["platform"], []).append(taken)
    [sent] = [line for line in done.stderr.splitlines() if line.startswith(SENDING)]
    return Timed(wall_s=wall, cells_s=seconds, sending_s=float(sent.removeprefix(SENDING)))


@cache
def _blank_store() -> Path:
    """A store that is there: making one takes MLflow seconds, once."""
    path = Path(tempfile.mkdtemp(prefix="hwbench-bench-")) / "mlflow.db"
    atexit.register(shutil.rmtree, path.parent)
    making = "import sys; from hwbench_mlflow.tracking import Store; Store(sys.argv[1])"
    subprocess.run([sys.executable, "-c", making, f"sqlite:///{path}"], cwd=ROOT, check=True, capture_output=True)
    return path


def _seconds_of(uri: str, run_ids: Sequence[str]) -> list[float]:
    """Seconds of each cell, by the monotonic clock in its evidence."""
    from hwbench_mlflow.tracking import ArtifactFiles, Store

    store = Store(uri)
    seconds = []
    for run_id in run_ids:
        artifact_uri = store.client.get_run(run_id).info.artifact_uri
        [data] = ArtifactFiles(uri).fetch(run_id, artifact_uri, [RESULT_FILE]).values()
        seconds.append(decode_result(data).monotonic_ns / 1e9)
    return seconds


def inner(arguments: Sequence[str]) -> None:
    """``hwbench`` itself, with a clock around what a cell does while its worker starts."""
    from hwbench_mlflow import runner
    from hwbench_mlflow.cli import main as cli

    measure, spent = runner.run, list[float]()

    def run(request: Any, progress: Any, before_timing: Callable[[], None]) -> Any:
        def clocked() -> None:
            begun = time.perf_counter()
            before_timing()
            spent.append(time.perf_counter() - begun)

        return measure(request, progress, clocked)

    runner.run = run
    sys.argv = ["hwbench", *arguments]
    try:
        cli.main()
    finally:
        print(f"{SENDING}{sum(spent)}", file=sys.stderr)


def cost(*, smallest: bool) -> None:
    """One device: the batch against the sum of its cells."""
    sizes, profile = ("1", "smoke") if smallest else ("1,2,4,8", "quick")
    options = ("--models", "bert-tiny", "--hardware", "cpu", "--batch-sizes", sizes, "--profile", profile)
    found = timed(options)
    cells = sum(found.cells_s["cpu"])
    own = found.wall_s - cells
    count = len(found.cells_s["cpu"])
    print(f"| one device, {count} cell{'' if count == 1 else 's'}, profile {profile} | |")
    print("| --- | ---: |")
    print(f"| whole batch, s | {found.wall_s:.2f} |")
    print(f"| its measurements and model loads, s | {cells:.2f} |")
    print(f"| its own cost, s | {own:.2f} |")
    print(f"| its own cost, share of the measurements (at most {LIMIT:.0%}) | {own / cells:.2%} |")
    print(f"| making runs and sending results while workers start, s | {found.sending_s:.2f} |")


def devices(*, smallest: bool) -> None:
    """Two devices: the batch against the longer of the two."""
    sizes, profile = ("1", "smoke") if smallest else ("1,2", "quick")
    found = timed(
        ("--models", "bert-tiny", "--hardware", "cpu,openvino", "--batch-sizes", sizes, "--profile", profile,
         "--max-workers", "2", "--pin", "cpu=0", "--pin", "openvino=1")
    )  # fmt: skip
    each = {platform: sum(seconds) for platform, seconds in sorted(found.cells_s.items())}
    longer = max(each.values())
    count = sum(len(seconds) for seconds in found.cells_s.values())
    print(f"| two devices, {count} cells, profile {profile} | |")
    print("| --- | ---: |")
    print(f"| whole batch, s | {found.wall_s:.2f} |")
    for platform, seconds in each.items():
        print(f"| cells of {platform}, s | {seconds:.2f} |")
    print(f"| whole batch, the longer of them = 1 | {found.wall_s / longer:.3f} |")
    print(f"| whole batch, all cells one after the other = 1 | {found.wall_s / sum(each.values()):.3f} |")


def main() -> None:
    """Print the tables."""
    if sys.argv[1:2] == ["--inner"]:
        inner(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="else all")
    parser.add_argument("--smallest", action="store_true", help="the smoke profile: only to see it run")
    options = parser.parse_args()
    parts = options.part or list(PARTS)
    if "cost" in parts:
        cost(smallest=options.smallest)
    if "cost" in parts and "devices" in parts:
        print()
    if "devices" in parts:
        devices(smallest=options.smallest)


if __name__ == "__main__":
    main()
