"""Does hwbench say the same as the tools people already trust?

    python -m tests.benchmarks.fidelity

torch on the CPU: the worker's own timed window against ``torch.utils.benchmark.Timer.blocked_autorange``: one module
object, the same inputs, threads and process, in turns.

OpenVINO: the same window against ``benchmark_app`` (the package openvino brings it) on the same graph, inputs,
precision and hint: as a program, which takes turns of seconds, and its measuring loop in this process, which takes
turns of a tenth of a second and so suffers less from what else the machine does. It reports the runtime's own latency,
which leaves out the call from Python; hwbench's clock is around the call. The third row times the same loop from
outside, to tell that difference from any other.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from hwbench_mlflow import worker
from hwbench_mlflow.model import WeightsPolicy, Workload
from hwbench_mlflow.runner import SLOTS
from hwbench_mlflow.stats import median
from tests.benchmarks.side_by_side import Row, Target, arguments, in_turns, ratio_row, table

if TYPE_CHECKING:
    from hwbench_mlflow.backends.base import Session
    from hwbench_mlflow.workloads.base import LoadedModel

BAND = Target(low=0.98, high=1.02)
NONCE = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure. A turn lasts ``turn_s``, or ``turn_samples`` inferences if that is longer; turns are taken
    for ``row_s``, at most ``pairs`` of them each. benchmark_app as a program runs ``app_s`` whole seconds a turn."""

    models: tuple[str, ...]
    turn_s: float
    turn_samples: int
    row_s: float
    pairs: int
    app_pairs: int
    app_s: int


FULL = Size(models=("bert-tiny", "bert"), turn_s=0.1, turn_samples=8, row_s=60.0, pairs=200, app_pairs=12, app_s=4)
SMALLEST = Size(models=("bert-tiny",), turn_s=0.05, turn_samples=3, row_s=0.1, pairs=2, app_pairs=1, app_s=1)


@dataclass(frozen=True, slots=True)
class Order:
    """What the worker's window reads of its order."""

    slots: int
    min_samples: int
    seconds: float
    workload: Workload


def load(name: str) -> LoadedModel:
    """The model with seeded weights: time does not depend on them, and no hub is needed."""
    from hwbench_mlflow.workloads.build import load as build

    return build(Workload(model=name, weights=WeightsPolicy.RANDOM))


def hwbench_p50(session: Session, seconds: float) -> float:
    """Seconds: the median of one timed window of the worker, its own code."""
    order = Order(slots=SLOTS, min_samples=3, seconds=seconds, workload=Workload(model="one forward pass"))
    window = worker._window(session, order, 1, None)  # type: ignore[arg-type]
    return median(window.samples_ns) / 1e9


def torch_median(module: Any, inputs: dict[str, Any], seconds: float) -> float:
    """Seconds: the median that torch's own timer gives, on as many threads as torch has here."""
    import torch
    from torch.utils.benchmark import Timer

    timer = Timer("module(**inputs)", globals={"module": module, "inputs": inputs}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=seconds).median)


def turns(size: Size, session: Session) -> tuple[float, int]:
    """Seconds of a turn and the number of pairs, after a warm-up that shows how long an inference takes."""
    warm = worker._warm_up(session, SLOTS, max(1.0, 20 * size.turn_s))
    seconds = max(size.turn_s, size.turn_samples * median(warm.tail) / 1e9)
    return seconds, max(2, min(size.pairs, round(size.row_s / (2 * seconds))))


def against_torch(size: Size, name: str, threads: int | None) -> list[Row]:
    """One module, both timers, in one process."""
    import torch

    from hwbench_mlflow.backends.cpu import CpuBackend
    from hwbench_mlflow.workloads.challenge import make_inputs

    model, backend = load(name), CpuBackend()
    inputs = {key: torch.from_numpy(array) for key, array in make_inputs(model.input_spec, NONCE, 0).items()}
    with backend.open(backend.probe().devices[0], model.workload, model, threads) as session:
        worker._stage(session, model.input_spec, NONCE, SLOTS)
        seconds, count = turns(size, session)
        pairs = in_turns(
            partial(hwbench_p50, session, seconds), partial(torch_median, model.module, inputs, seconds), count
        )
    return [ratio_row(f"{name}, torch: p50 / torch.utils.benchmark", pairs, BAND, "ms", 1e3)]


def app_median(command: Sequence[str]) -> float:
    """Seconds: the median that benchmark_app prints (to 0.01 of µs below one millisecond, of ms above)."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Median:\s+([0-9.]+) (us|ms)", done.stdout)
    if done.returncode or found is None:
        raise SystemExit(f"benchmark_app failed: {(done.stdout + done.stderr).strip()[-500:]}")
    return float(found[1]) / {"us": 1e6, "ms": 1e3}[found[2]]


@dataclass(frozen=True, slots=True)
class OneInput:
    """What benchmark_app's loop asks of its queue when the inputs were filled beforehand."""

    def get_next_batch_size(self) -> int:
        """Of the count of frames, which is not used."""
        return 1


class AppLoop:
    """benchmark_app's own measuring loop (``-api sync``, inference only) on its own compiled model."""

    def __init__(self, path: Path, config: dict[str, str], inputs: Sequence[Any]) -> None:
        from openvino.tools.benchmark.benchmark import Benchmark

        self.benchmark = Benchmark("CPU", 0, 1, None, "sync", True)
        self.benchmark.niter = None
        self.compiled = self.benchmark.core.compile_model(self.benchmark.read_model(str(path)), "CPU", config)
        self.requests = self.benchmark.create_infer_requests(self.compiled)
        for index, array in enumerate(inputs):
            self.requests[0].get_input_tensor(index).data[:] = array
        self.benchmark.first_infer(self.requests)

    def median(self, seconds: float) -> float:
        """Seconds: what benchmark_app would print as the median."""
        self.benchmark.duration_seconds = seconds
        return float(self.benchmark.main_loop(self.requests, OneInput(), [1], 50, False)[1]) / 1e3

    def median_from_outside(self, seconds: float) -> float:
        """Seconds: the same call, by a clock around it."""
        samples, deadline = [], perf_counter_ns() + seconds * 1e9
        infer, clock = self.requests[0].infer, perf_counter_ns
        while clock() < deadline:
            start = clock()
            infer()
            samples.append(clock() - start)
        return median(samples) / 1e9


def against_benchmark_app(size: Size, name: str) -> list[Row]:
    """One graph, compiled by both with the same precision and hint, on the CPU."""
    import openvino as ov

    from hwbench_mlflow.backends.openvino import OpenvinoBackend, compile_config, convert
    from hwbench_mlflow.workloads.challenge import make_inputs

    model, backend = load(name), OpenvinoBackend()
    device = next(device for device in backend.probe().devices if device.id == "CPU")
    config = compile_config(device.id, model.workload, None)
    arrays = list(make_inputs(model.input_spec, NONCE, 0).values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        graph, _ = convert(model, model.workload)
        ov.save_model(graph, path, compress_to_fp16=False)
        program = [
            *(sys.executable, "-c", "from openvino.tools.benchmark.main import main; main()"),
            *("-m", str(path), "-d", device.id, "-t", str(size.app_s), "-i", saved_inputs(graph, arrays, Path(folder))),
            *("-hint", config["PERFORMANCE_HINT"].lower(), "-infer_precision", config["INFERENCE_PRECISION_HINT"]),
        ]
        loop = AppLoop(path, config, arrays)
        with backend.open(device, model.workload, model, None) as session:
            worker._stage(session, model.input_spec, NONCE, SLOTS)
            seconds, count = turns(size, session)
            ours = partial(hwbench_p50, session)
            found = {
                "benchmark_app": in_turns(
                    partial(ours, float(size.app_s)), partial(app_median, program), size.app_pairs
                ),
                "benchmark_app's loop": in_turns(partial(ours, seconds), partial(loop.median, seconds), count),
                "that loop from outside": in_turns(
                    partial(ours, seconds), partial(loop.median_from_outside, seconds), count
                ),
            }
    return [ratio_row(f"{name}, OpenVINO: p50 / {peer}", pairs, BAND, "ms", 1e3) for peer, pairs in found.items()]


def saved_inputs(graph: Any, arrays: Sequence[Any], folder: Path) -> str:
    """The inputs as benchmark_app takes them: ``name:file`` for each port."""
    import numpy as np

    for index, (port, array) in enumerate(zip(graph.inputs, arrays, strict=True)):
        np.save(folder / f"{index}.npy", array.astype(port.element_type.to_dtype()))
    return ",".join(f"{port.any_name}:{folder / f'{index}.npy'}" for index, port in enumerate(graph.inputs))


def measure(size: Size, threads: int | None = None) -> list[Row]:
    """Every row of the table."""
    return [
        *(row for name in size.models for row in against_torch(size, name, threads)),
        *(row for name in size.models for row in against_benchmark_app(size, name)),
    ]


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, help="torch's threads, on both sides; its own choice if not given")
    options = parser.parse_args()
    print(table(measure(SMALLEST if options.smallest else FULL, options.threads)))
