"""What a fleet costs beside what it measures: 200 cells on four nodes with a fake device each, on this machine.

    python -m tests.benchmarks.bench_fleet

The nodes are processes of ``hwbench fleet join``; their runner waits for a second and gives a result that is simulated,
so that everything else is real: Ray, signing, drawing, a ``mlflow server`` that every node logs to. The scheduling
overhead of a cell is the time for which its device was idle before it: from the moment when the node was done with the
cell before (measured, signed, delivered) to the moment when it began with this one. Both by the node's clock.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hwbench_mlflow.backends.lookup import targets
from hwbench_mlflow.cli import fleet_batch
from hwbench_mlflow.cli.batch_session import BatchSession
from hwbench_mlflow.cli.fleet_cell import CellAnswer
from hwbench_mlflow.codec import decode
from hwbench_mlflow.keystore import load_keyring, signing_key
from hwbench_mlflow.model import PROFILES, Platform, WeightsPolicy
from hwbench_mlflow.plan import Settings, cells_of, matrix_of, plan_of, requests_of
from tests.fleets import new_fleet
from tests.warehouse.servers import _healthy, _wait, free_port

NODES = 4
LIMIT_MS = 50
MOST_REQUESTS = 10
SECONDS = 1.0


def answers(into: list[tuple[str, CellAnswer]]) -> None:
    """Note every answer of a node, as it arrives."""
    finished = fleet_batch.FleetCells.finished

    def noting(self: Any, at: Any, answer: bytes) -> bool:
        into.append((at.node.joined.name, decode(answer, CellAnswer)))
        return finished(self, at, answer)

    fleet_batch.FleetCells.finished = noting  # type: ignore[method-assign]


def measure(uri: str, address: str, cells: int) -> tuple[float, list[tuple[str, CellAnswer]]]:
    """A batch of that many cells; its seconds, and what the nodes answered."""
    found: list[tuple[str, CellAnswer]] = []
    answers(found)
    fake = dict.fromkeys(Platform, targets()["fake"])
    settings = Settings(profile=PROFILES["quick"], weights=WeightsPolicy.RANDOM, backends=fake, pins={})
    matrix = matrix_of({"models": ["bert-tiny"], "hardware": ["cpu"], "batch_sizes": list(range(1, cells + 1))})
    session = BatchSession(
        tracking_uri=uri, experiment=None, key=signing_key(), keyring=load_keyring(), max_workers=1, fleet=address
    )
    session.begin(plan_of(requests_of(cells_of(matrix), settings), 1, 0.0))
    begun = time.perf_counter()
    with session:
        session.run_all()
    assert Counter(outcome.state for outcome in session.outcomes) == Counter(done=cells), session.outcomes
    return time.perf_counter() - begun, found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smallest", action="store_true", help="four short cells on one node: only to see it run")
    small = parser.parse_args().smallest
    cells, nodes, seconds = (4, 1, 0.1) if small else (200, NODES, SECONDS)
    with tempfile.TemporaryDirectory(prefix="hwb-") as name, new_fleet() as fleet:
        folder, port = Path(name), free_port()
        os.environ.update(HWBENCH_HOME=str(folder / "home"), MLFLOW_DISABLE_TELEMETRY="true", HF_HUB_OFFLINE="1")
        uri, log = f"http://127.0.0.1:{port}", folder / "server.log"
        with log.open("ab") as stream:
            server = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                 "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
                 "--artifacts-destination", str(folder / "artifacts")],
                stdout=stream, stderr=stream, cwd=folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )  # fmt: skip
        try:
            fleet.join("head", "--hardware", "none")
            for number in range(nodes):
                fleet.join(
                    f"n{number}", "--hardware", "cpu", "--backend", "fake", "--emulated",
                    HWBENCH_TEST_SECONDS=str(seconds),
                )  # fmt: skip
            fleet.trust()
            _wait(lambda: _healthy(uri), server, log)  # it started beside the nodes
            asked = len(re.findall(r'"[A-Z]+ /(?:api|ajax-api)/', log.read_text(errors="replace")))
            wall, found = measure(uri, fleet.address, cells)
            requests = len(re.findall(r'"[A-Z]+ /(?:api|ajax-api)/', log.read_text(errors="replace"))) - asked
        finally:
            server.terminate()
            server.wait(30)
    show(cells, nodes, wall, found, requests, seconds)


def show(  # noqa: PLR0917  # one caller, just above
    cells: int, nodes: int, wall: float, found: list[tuple[str, CellAnswer]], requests: int, seconds: float
) -> None:
    by_node: dict[str, list[CellAnswer]] = {}
    for node, answer in sorted(found, key=lambda pair: pair[1].began_s):
        by_node.setdefault(node, []).append(answer)
    assert len(by_node) == nodes
    idle = sorted(
        (later.began_s - earlier.ended_s) * 1e3
        for answered in by_node.values()
        for earlier, later in itertools.pairwise(answered)
    )
    own = [answer.ended_s - answer.began_s - seconds for _, answer in found]
    print(f"| {cells} cells on {nodes} nodes of this machine | |")
    print("| --- | ---: |")
    print(f"| whole batch, s | {wall:.1f} |")
    print(f"| scheduling overhead a cell, ms: mean (at most {LIMIT_MS}) | {statistics.mean(idle):.1f} |")
    print(f"| the same, median | {statistics.median(idle):.1f} |")
    print(f"| the same, 95% are below | {idle[round(0.95 * (len(idle) - 1))]:.1f} |")
    print(f"| signing, drawing and delivering a cell on its node, s, median | {statistics.median(own):.2f} |")
    print(f"| requests of the server a cell, all of the batch's (at most {MOST_REQUESTS}) | {requests / cells:.2f} |")


if __name__ == "__main__":
    main()
