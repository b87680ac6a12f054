"""A worker as its parent sees it: what its death, its silence and its nonsense become; one lock a device."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hwbench_mlflow import protocol, supervise
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import FailureCategory
from hwbench_mlflow.supervise import WorkerProcess, device_lock
from tests.commands import alive, environment

Spawn = Callable[[str], WorkerProcess]


@pytest.fixture
def spawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spawn]:
    """A worker that is this Python code in place of the real one."""
    real = subprocess.Popen
    made: list[WorkerProcess] = []

    def start(code: str) -> WorkerProcess:
        def popen(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
            assert arguments == [sys.executable, "-m", "hwbench_mlflow.worker"]
            return real([sys.executable, "-c", code], **options)

        monkeypatch.setattr(subprocess, "Popen", popen)
        made.append(WorkerProcess())
        return made[-1]

    yield start
    for worker in made:
        worker.close()


def failure(worker: WorkerProcess, timeout_s: float = 30.0) -> BenchmarkFailed:
    with pytest.raises(BenchmarkFailed) as caught:
        worker.expect(protocol.Ready, timeout_s, "warming up")
    return caught.value


def test_an_event_comes_with_the_parent_s_time(spawn: Spawn) -> None:
    worker = spawn("""print('{"type":"Ready","warmup_ns":[3,4],"flat":true}', flush=True)""")
    before = worker.now_ns()
    ready, at_ns = worker.expect(protocol.Ready, 30.0, "warming up")
    assert ready == protocol.Ready(warmup_ns=(3, 4), flat=True)
    assert 0 < at_ns <= worker.now_ns()
    assert before > 0
    ended = worker.wait()
    assert (ended.returncode, ended.at_ns >= at_ns) == (0, True)
    assert ended.cpu_ns is None or ended.cpu_ns > 0
    assert ended.max_rss_bytes is None or ended.max_rss_bytes > 1_000_000


def test_silence_is_a_timeout_and_the_worker_is_ended(spawn: Spawn) -> None:
    worker = spawn("import time; time.sleep(600)")
    found = failure(worker, timeout_s=0.2)
    assert found.category is FailureCategory.TIMEOUT
    assert "said nothing for 0 s while warming up" in str(found)
    assert not alive(worker.pid)


def test_nonsense_is_a_crash_and_the_worker_is_ended(spawn: Spawn) -> None:
    worker = spawn("import time; print('Vendor SDK 1.0 {', flush=True); time.sleep(600)")
    found = failure(worker)
    assert found.category is FailureCategory.CRASH
    assert "sent nonsense while warming up" in str(found)
    assert not alive(worker.pid)


def test_an_event_out_of_turn_is_a_crash(spawn: Spawn) -> None:
    worker = spawn("""print('{"type":"WindowOver"}', flush=True)""")
    found = failure(worker)
    assert found.category is FailureCategory.CRASH
    assert "sent WindowOver while warming up" in str(found)


def test_a_death_says_its_exit_code_and_the_worker_s_last_words(spawn: Spawn) -> None:
    worker = spawn("import sys; print('first', file=sys.stderr); raise RuntimeError('the vendor gave up')")
    found = failure(worker)
    assert found.category is FailureCategory.CRASH
    assert str(found) == "the worker ended with exit code 1 while warming up: RuntimeError: the vendor gave up"


def test_a_death_by_a_signal_says_which(spawn: Spawn) -> None:
    found = failure(spawn("import os, signal; os.kill(os.getpid(), signal.SIGABRT)"))
    assert (found.category, "killed by SIGABRT" in str(found)) == (FailureCategory.CRASH, True)


def test_a_kill_by_the_kernel_for_memory_is_told_apart(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([7, 8])
    monkeypatch.setattr(supervise, "_oom_kills", lambda: next(counts))
    found = failure(spawn("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    assert found.category is FailureCategory.OUT_OF_MEMORY
    assert "smaller batch" in str(found)


def test_a_kill_without_the_kernel_s_count_is_no_lack_of_memory(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_oom_kills", lambda: None)
    assert failure(spawn("import os; os.kill(os.getpid(), 9)")).category is FailureCategory.CRASH


def test_what_a_worker_says_of_its_failure_is_passed_on(spawn: Spawn) -> None:
    line = protocol.write(
        protocol.Failed(category=FailureCategory.MODEL_TOO_LARGE, message="too large", remedy="Take a smaller one")
    )
    found = failure(spawn(f"import os; os.write(1, {line!r})"))
    assert (found.category, str(found)) == (FailureCategory.MODEL_TOO_LARGE, "too large. Take a smaller one")


def test_a_command_to_a_dead_worker_says_how_it_died(spawn: Spawn) -> None:
    worker = spawn("import sys; sys.stdin.close(); sys.exit('no more')")
    worker.wait()
    with pytest.raises(BenchmarkFailed, match="exit code 1 while working: no more"):
        worker.say(protocol.Go())


def test_closing_ends_what_the_worker_started(spawn: Spawn) -> None:
    child = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    worker = spawn(f"{child}; print(p.pid, flush=True); time.sleep(600)")
    (_, line) = worker._lines.get(timeout=30)
    worker.close()
    assert not alive(worker.pid)
    assert not alive(int(line))


def test_the_real_worker_ends_when_its_parent_s_line_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hwbench_mlflow.worker"], stdin=subprocess.DEVNULL, env=environment(), check=False
    )
    assert done.returncode == 1


def test_the_lock_keeps_a_second_benchmark_waiting_and_says_so(tmp_path: Path) -> None:
    code = """
import sys
from hwbench_mlflow.supervise import device_lock
with device_lock("GPU 1/2", lambda text: print(text, flush=True)):
    print("got it", flush=True)
"""
    told: list[str] = []
    with device_lock("GPU 1/2", told.append):
        other = subprocess.Popen([sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        first = other.stdout.readline()
        assert other.poll() is None
    rest, _ = other.communicate(timeout=60)
    assert first == "another benchmark is running on GPU 1/2: waiting for it to end\n"
    assert rest == "got it\n"
    assert told == []


def test_two_devices_do_not_wait_for_each_other() -> None:
    told: list[str] = []
    with device_lock("one", told.append), device_lock("two", told.append):
        assert told == []


def test_a_lock_goes_with_the_process_that_held_it() -> None:
    code = """
import os
from hwbench_mlflow.supervise import device_lock
with device_lock("left", print):
    os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)
    told: list[str] = []
    with device_lock("left", told.append):
        assert told == []
