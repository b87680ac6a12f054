"""How long until hwbench does something.

    python -m tests.benchmarks.startup

``hwbench --help`` against importing click; and from the command to the end of the first timed inference against a bare
script that imports torch, transformers and mlflow, builds the same model in the ordinary way and runs it once. Fresh
processes in turns, one machine, one environment; hub and telemetry off for both.

hwbench probes the hardware, counts the model on meta tensors, checks fp32 and logs an MLflow run before that inference;
the script does none of it. One row starts with the store that an earlier run made, one with none (MLflow then creates
its tables).
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks.side_by_side import Row, Target, arguments, in_turns, ratio_row, table
from tests.benchmarks.stamp import STAMP

ROOT = Path(__file__).resolve().parents[2]
HELP = Target(2.5)
FIRST_INFERENCE = Target(1.3)
LIMIT_S = 300.0

BARE = """
import sys
import torch
import transformers
import mlflow

sizes = {"bert": (768, 12, 12, 3072), "bert-tiny": (128, 2, 2, 512)}
names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
config = transformers.BertConfig(**dict(zip(names, sizes[sys.argv[1]])))
model = transformers.BertModel(config).eval()
tokens = torch.randint(0, config.vocab_size, (1, 128))
with torch.inference_mode():
    model(input_ids=tokens, attention_mask=torch.ones_like(tokens), token_type_ids=torch.zeros_like(tokens))
from tests.benchmarks.stamp import leave_stamp
leave_stamp()
"""


@dataclass(frozen=True, slots=True)
class Size:
    """Pairs of each kind."""

    models: tuple[str, ...]
    help_pairs: int
    run_pairs: int


FULL = Size(models=("bert-tiny", "bert"), help_pairs=30, run_pairs=12)
SMALLEST = Size(models=("bert-tiny",), help_pairs=2, run_pairs=1)


def seconds_of(command: Sequence[str], environment: dict[str, str]) -> float:
    """Wall time of a command that has to succeed."""
    begin = time.perf_counter_ns()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter_ns() - begin) / 1e9


def help_rows(size: Size, environment: dict[str, str]) -> list[Row]:
    """The module, and the installed command where this environment has one."""
    commands: dict[str, tuple[str, ...]] = {
        "python -m hwbench_mlflow --help": (sys.executable, "-m", "hwbench_mlflow", "--help")
    }
    script = Path(sys.executable).with_name("hwbench")
    if script.exists():
        commands["hwbench --help"] = (str(script), "--help")
    rows = []
    for what, command in commands.items():
        pairs = in_turns(
            partial(seconds_of, command, environment),
            partial(seconds_of, (sys.executable, "-c", "import click"), environment),
            size.help_pairs,
        )
        rows.append(ratio_row(f"{what} / import click", pairs, HELP, "ms", 1e3))
    return rows


class Launch:
    """Starts a command and reads when its first inference was over."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._count = itertools.count()

    def seconds(self, command: Sequence[str], *, store: Path | None = None) -> float:
        """Seconds from the start of the process to the note; it is told to stop as soon as that is there.
        Without ``store`` MLflow gets a new one."""
        index = next(self._count)
        note = self._folder / f"stamp-{index}"
        uri = f"sqlite:///{store or self._folder / f'new-{index}.db'}"
        environment = self._environment | {STAMP: str(note), "MLFLOW_TRACKING_URI": uri}
        with open(self._folder / "said", "w+") as said:
            begin_ns = time.time_ns()
            process = subprocess.Popen(command, cwd=self._folder, env=environment, stdout=said, stderr=said)
            try:
                while not note.exists():
                    if process.poll() is not None or time.time_ns() - begin_ns > LIMIT_S * 1e9:
                        said.seek(0)
                        raise SystemExit(f"no first inference: {' '.join(command)}: {said.read()[-800:]}")
                    time.sleep(0.02)
            finally:
                process.terminate()
                process.wait(60)
        return (int(note.read_text()) - begin_ns) / 1e9


def run_rows(size: Size, folder: Path, environment: dict[str, str]) -> list[Row]:
    """From the command to the first inference."""
    launch, store = Launch(folder, environment), folder / "kept.db"
    rows = []
    for name in size.models:
        ours = (
            *(sys.executable, "-m", "hwbench_mlflow", "run", "--model", name, "--hardware", "cpu"),
            *("--weights", "random", "--backend", "tests.benchmarks.stamp:StampedCpu"),
        )
        bare = (sys.executable, "-c", BARE, name)
        launch.seconds(ours, store=store)  # makes the store and the key, and warms the disk's cache
        launch.seconds(bare, store=store)
        for what, kept in ((name, store), (f"{name}, first run of a store", None)):
            pairs = in_turns(
                partial(launch.seconds, ours, store=kept), partial(launch.seconds, bare, store=kept), size.run_pairs
            )
            rows.append(ratio_row(f"to the first inference, {what}", pairs, FIRST_INFERENCE, "s", 1.0))
    return rows


def measure(size: Size) -> list[Row]:
    """Every row of the table."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "HWBENCH_"))} | {
            "HWBENCH_HOME": str(folder / "home"),
            "HF_HUB_OFFLINE": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        }
        return [*help_rows(size, environment), *run_rows(size, folder, environment)]


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    print(table(measure(SMALLEST if options.smallest else FULL)))
