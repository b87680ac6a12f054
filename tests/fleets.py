"""A fleet of several nodes on this machine: processes of ``hwbench fleet join``, each with a home and a key."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from tests.commands import ROOT, environment, hwbench
from tests.warehouse.servers import free_port

QUICK = Path(__file__).parent / "quick_node"
REASON = "made by a test: nothing was measured"


def quick_runner() -> None:
    """Let this process's runner answer after ``HWBENCH_TEST_SECONDS``, under the device's lock, and note when."""
    from hwbench_mlflow import runner, supervise
    from hwbench_mlflow.codec import encode
    from hwbench_mlflow.errors import HardwareUnavailable, Interrupted
    from hwbench_mlflow.model import Availability, AvailabilityStatus
    from tests.honest import honest, resealed

    def run(request: Any, progress: Any, prepare: Any) -> runner.Measured:
        if "HWBENCH_TEST_BROKEN" in os.environ:
            prepare()
            found = Availability(platform=request.platform, status=AvailabilityStatus.NO_DEVICE, reason="it broke")
            raise HardwareUnavailable(f"{request.platform} is unavailable: it broke", found)
        with supervise.device_lock("quick", progress.warn):
            begin = time.time()
            prepare()
            progress.stage("pretending")
            while time.time() - begin < float(os.environ.get("HWBENCH_TEST_SECONDS", "0")):
                time.sleep(0.01)
                if supervise._stopping.is_set():
                    raise Interrupted("told to stop")
            line = {"home": os.environ["HWBENCH_HOME"], "begin": begin, "end": time.time(), "pid": os.getpid()}
            line["omp"] = os.environ.get("OMP_NUM_THREADS")
            with Path(os.environ["HWBENCH_TEST_LOG"]).open("ab", buffering=0) as log:
                log.write(encode(line) + b"\n")
        result, samples = honest(request.platform)
        samples = dataclasses.replace(samples, result_id=uuid.uuid4().hex)
        device = dataclasses.replace(result.device, emulation_reason=REASON)
        work = dataclasses.replace(
            result.workload, model=request.workload.model, batch_size=request.workload.batch_size
        )
        now = datetime.now(UTC)
        facts = dataclasses.replace(result.workers[0].facts, device=device)
        result = dataclasses.replace(
            result, result_id=samples.result_id, workload=work, request=request, started_at=now.isoformat(),
            availability=dataclasses.replace(result.availability, devices=(device,), started_at=now.isoformat()),
            finished_at=(now + timedelta(seconds=30)).isoformat(), device=device, is_simulated=True,
            simulation_reason=REASON, workers=(dataclasses.replace(result.workers[0], facts=facts),),
        )  # fmt: skip
        return runner.Measured(result=resealed(result, samples), samples=samples)

    runner.run = run  # type: ignore[assignment]


@dataclass
class Node:
    """One node, as a process of its own."""

    name: str
    ip: str
    home: Path
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def kill(self) -> None:
        """As a machine goes that loses its power: everything at once."""
        every = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for process in every:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(30)

    def leave(self) -> int:
        """As people end it."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@dataclass
class TestFleet:
    """The fleet's address, its nodes by name, and what all its processes share."""

    __test__ = False

    address: str
    folder: Path
    environ: dict[str, str]
    nodes: dict[str, Node] = field(default_factory=dict)

    def join(self, name: str, *arguments: str, quick: bool = True, **environ: str) -> Node:
        """Start a node and wait until it says that it has joined."""
        number = len(self.nodes) + 2
        ip, home = f"127.0.0.{number}", self.folder / name
        home.mkdir()
        path = os.pathsep.join([*([str(QUICK)] if quick else []), str(ROOT)])
        settings = {**self.environ, "PYTHONPATH": path, "HWBENCH_HOME": str(home), **environ}
        settings["HWBENCH_TEST_LOG"] = str(self.folder / "log")
        head = [] if self.nodes else ["--head"]
        process = subprocess.Popen(
            [sys.executable, "-m", "hwbench_mlflow", "fleet", "join", self.address, "--name", name, "--ip", ip,
             *head, *arguments],
            cwd=self.folder, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        node = self.nodes[name] = Node(name, ip, home, process)
        assert process.stderr is not None
        for line in process.stderr:
            node.said.append(line.strip())
            if "joined" in line:
                break
        else:
            raise AssertionError(f"{name} did not join: {node.said}")
        exported = hwbench("keys", "export", cwd=self.folder, env={**settings, "PYTHONPATH": str(ROOT)})
        (self.folder / f"{name}.key").write_text(exported.stdout)
        return node

    def trust(self, *names: str) -> None:
        """Trust nodes' keys in this process's home."""
        from hwbench_mlflow.attest import parse_public_key
        from hwbench_mlflow.keystore import trust

        for name in names or tuple(self.nodes):
            trust(parse_public_key((self.folder / f"{name}.key").read_bytes(), name=name))

    def log(self) -> list[dict[str, Any]]:
        """What the quick runners noted: begin and end by node."""
        path = self.folder / "log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @contextmanager
    def held(self, name: str, resource: str = "hwbench:cpu") -> Iterator[None]:
        """A node's device in the hands of another program of the cluster, while the block runs."""
        code = (
            "import ray, sys\n"
            "from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as There\n"
            "class Holder:\n"
            "    def holds(self): return True\n"
            "address, ip, resource = sys.argv[1:]\n"
            "ray.init(address=address, log_to_driver=False, logging_level='CRITICAL')\n"
            "node = next(n['NodeID'] for n in ray.nodes() if n['NodeManagerAddress'] == ip and n['Alive'])\n"
            "held = ray.remote(Holder).options(num_cpus=0, resources={resource: 1},\n"
            "    scheduling_strategy=There(node, soft=False)).remote()\n"
            "assert ray.get(held.holds.remote(), timeout=60)\n"
            "print('held', flush=True)\n"
            "sys.stdin.read()\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, self.address, self.nodes[name].ip, resource], env=self.environ,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield
        finally:
            process.stdin.close()
            process.wait(30)
            process.stdout.close()

    def close(self) -> None:
        for node in reversed(self.nodes.values()):
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGTERM)
        for node in self.nodes.values():
            try:
                node.process.wait(30)
            except subprocess.TimeoutExpired:
                node.kill()
            assert node.process.stderr is not None
            node.process.stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def new_fleet(**environ: str) -> Iterator[TestFleet]:
    """An address and a token; nobody has joined yet. The token is this process's too, while the block runs."""
    # Not under pytest's folders: the paths of Ray's sockets must be short.
    folder = Path(tempfile.mkdtemp(prefix="hwf-"))
    ours = {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_TMPDIR": str(folder),
        "RAY_usage_stats_enabled": "0", "RAY_raylet_start_wait_time_s": "60", **environ,
    }  # fmt: skip
    before: Mapping[str, str | None] = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    made = TestFleet(f"127.0.0.2:{free_port()}", folder, environment(**ours))
    try:
        yield made
    finally:
        made.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
