"""``hwbench doctor``: each check sees what is wrong and says what to do; one that crashes is never ok."""

from __future__ import annotations

import email.utils
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import requests

from hwbench_mlflow import host, neighbours, probing
from hwbench_mlflow.cli import checks, machine_checks
from hwbench_mlflow.cli import main as cli
from hwbench_mlflow.cli.findings import Finding, Level, Setup, run_checks
from hwbench_mlflow.host import process_alive, process_name
from hwbench_mlflow.keystore import signing_key
from hwbench_mlflow.model import Availability, AvailabilityStatus, Platform
from hwbench_mlflow.neighbours import Others
from hwbench_mlflow.spool import SPOOL_VERSION, ParentEnd, ParentPlace, Place, Spool
from hwbench_mlflow.tracking import PROCESS_TAG, Store

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def setup(tmp_path: Path, store_uri: str) -> Setup:
    return Setup(
        tracking_uri=store_uri, db=tmp_path / "w.duckdb", published=tmp_path / "p.duckdb", stuck_hours=6, probe=False
    )


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store_uri: str) -> Call:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hwbench", "doctor", "--no-probe", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, captured.out, captured.err

    return run


@pytest.fixture(autouse=True)
def empty_spool(isolated: Path) -> Iterator[None]:
    shutil.rmtree(isolated / "spool", ignore_errors=True)
    yield
    shutil.rmtree(isolated / "spool", ignore_errors=True)


def levels(name: str, setup: Setup) -> list[Level]:
    return [finding.level for finding in run_checks(setup, {name: checks.CHECKS[name]})]


def test_a_check_that_crashes_or_says_nothing_is_unknown_and_shown(setup: Setup) -> None:
    def crash(setup: Setup) -> Iterator[Finding]:
        yield Finding(check="a", level=Level.OK, seen="fine so far")
        raise ZeroDivisionError("a\nb")

    def silent(setup: Setup) -> Iterator[Finding]:
        yield from ()

    crashed, nothing = run_checks(setup, {"a": crash, "b": silent})
    assert (crashed.level, crashed.seen) == (Level.UNKNOWN, "the check failed: ZeroDivisionError: a b")
    assert nothing.level is Level.UNKNOWN


def test_a_package_outside_its_range_is_a_problem(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    monkeypatch.setattr(metadata, "requires", lambda name: ["click>=8", "absent-package>=1; extra == 'web'"])
    assert levels("versions", setup) == [Level.OK]
    monkeypatch.setattr(metadata, "requires", lambda name: ["click>=99", "no-such-package>=1"])
    (found,) = run_checks(setup, {"versions": checks.versions})
    assert found.level is Level.PROBLEM
    assert "click" in found.seen
    assert "no-such-package is not installed" in found.seen


def test_a_store_that_is_none_is_a_problem_and_a_stale_folder_is_a_trap(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert levels("store", setup) == [Level.OK]
    bad = tmp_path / "bad.db"
    bad.write_bytes(b"no database" * 100)
    broken = Setup(tracking_uri=f"sqlite:///{bad}", db=bad, published=bad, stuck_hours=6, probe=False)
    assert levels("store", broken) == [Level.PROBLEM]
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (found,) = run_checks(
        Setup(tracking_uri=None, db=bad, published=bad, stuck_hours=6, probe=False), {"store": checks.store}
    )
    assert (found.level, "mlruns" in found.seen) == (Level.PROBLEM, True)


def test_a_store_that_is_not_there_yet_is_not_made_by_the_asking(setup: Setup, tmp_path: Path) -> None:
    first = replace(setup, tracking_uri=f"sqlite:///{tmp_path / 'first.db'}")
    assert levels("store", first) + levels("runs", first) == [Level.ABSENT, Level.ABSENT]
    assert not (tmp_path / "first.db").exists()


def test_a_server_that_is_away_is_a_problem_once_and_all_that_hangs_on_it_unknown(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = replace(setup, tracking_uri="http://127.0.0.1:9")
    found = run_checks(away, {name: checks.CHECKS[name] for name in ("store", "runs", "clocks")})
    assert [(one.check, one.level) for one in found] == [
        ("store", Level.PROBLEM), ("runs", Level.UNKNOWN), ("clocks", Level.OK), ("clocks", Level.UNKNOWN),
    ]  # fmt: skip
    assert "cannot be reached" in found[0].seen
    assert all(len(one.seen) < 80 for one in found[1:]), "the reason is said once"


def test_a_platform_that_is_not_here_is_absent_and_what_would_help_is_said(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(platforms: list[Platform]) -> list[Availability]:
        return [
            Availability(platform=Platform.CUDA, status=status, reason=str(status), remedy="Buy one")
            for status in AvailabilityStatus
        ]

    monkeypatch.setattr(probing, "probe_isolated", answers)
    found = run_checks(replace(setup, probe=True), {"platforms": checks.platforms})
    levels = {one.seen.split(": ")[1]: one.level for one in found}
    assert levels.pop("AVAILABLE") is Level.PROBLEM, "there, and no operation was verified on it"
    assert levels.pop("PROBE_FAILED") is Level.PROBLEM
    assert set(levels.values()) == {Level.ABSENT}
    assert {one.remedy for one in found} == {"Buy one"}


def test_an_address_is_shown_without_its_password() -> None:
    assert checks._without_password("postgresql://me:se@cret@db/x") == "postgresql://me@db/x"
    assert checks._without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_runs_of_dead_processes_are_found_and_ended_and_no_others(call: Call, setup: Setup, store_uri: str) -> None:
    store = Store(store_uri)
    assert levels("runs", setup) == [Level.OK]
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    name = process_name(child.pid)
    dead, mine, elsewhere, foreign, queued = (
        store.start(n) for n in ("dead", "mine", "elsewhere", "foreign", "queued")
    )
    for run_id in (dead, queued):
        store.client.set_tag(run_id, PROCESS_TAG, name)
    store.client.set_tag(elsewhere, PROCESS_TAG, "another:boot:1:1")
    store.client.set_tag(foreign, "mlflow.source.name", "train.py")
    assert levels("runs", setup) == [Level.OK]
    child.kill()
    child.wait()
    parent = ParentPlace(attempt="a" * 32, name="p", started_ms=1, run_id="f" * 32)
    place = Place(
        spool_version=SPOOL_VERSION, attempt="b" * 32, tracking_uri=store_uri, experiment=None, name="x", started_ms=1,
        run_id=queued, parent=parent,
    )  # fmt: skip
    Spool().put_end(place, ParentEnd(configurations=1, failed=1))  # it cannot be delivered: there is no such parent
    (found,) = run_checks(setup, {"runs": checks.stuck})
    assert (found.level, dead in found.seen, mine in found.seen) == (Level.PROBLEM, True, False)
    code, out, _ = call("--json")
    assert (code, json.loads(out)["ended"]) == (1, [])
    code, out, err = call("--json", "--fix")
    assert json.loads(out)["ended"] == [dead]
    statuses = {run_id: store.client.get_run(run_id).info.status for run_id in (dead, mine, elsewhere, foreign, queued)}
    assert statuses == dict.fromkeys((mine, elsewhere, foreign, queued), "RUNNING") | {dead: "KILLED"}
    assert "stays in" in err


def test_runs_that_are_running_for_long_are_told_and_left(setup: Setup, store_uri: str) -> None:
    Store(store_uri).start("old", start_ms=1)
    assert levels("runs", setup) == [Level.WARNING]


def test_a_process_is_known_by_more_than_its_pid() -> None:
    mine = process_name()
    assert process_alive(mine) is True
    machine, boot, pid, started = mine.split(":")
    assert process_alive(f"{machine}:{boot}:{pid}:{int(started) - 60_000}") is False
    assert process_alive(f"{machine}:other:{pid}:{started}") is False
    assert process_alive(f"elsewhere:{boot}:{pid}:{started}") is None
    assert process_alive("") is None


def lines_of(out: str, check: str) -> list[str]:
    """What the table says of one check, with its advice, by single spaces."""
    found: list[str] = []
    mine = False
    for line in out.splitlines():
        words = line.split()
        if words[0] != "->":
            mine = words[1] == check
        if mine:
            found.append(" ".join(words))
    return found


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("HWBENCH_HOME", str(home))
    signing_key()
    return home


def few(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Only these checks."""
    monkeypatch.setattr(checks, "CHECKS", {name: checks.CHECKS[name] for name in names})


def test_a_key_that_others_can_read_is_a_problem(setup: Setup, isolated: Path) -> None:
    signing_key()
    assert levels("keys", setup) == [Level.OK]
    path = isolated / "signing_key.pem"
    path.chmod(0o644)
    try:
        assert levels("keys", setup) == [Level.PROBLEM]
    finally:
        path.chmod(0o600)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff\x00" * 40], ids=["empty", "text", "bytes"])
def test_a_damaged_key_file_is_one_line_that_says_what_to_do_whatever_else_is_asked(
    content: bytes, own_home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch, "keys", "tags", "spool")
    monkeypatch.setenv("HWBENCH_TAG_RUNS", "1")
    path = own_home / "signing_key.pem"
    path.write_bytes(content)
    said = [
        f"problem keys The signing key {path} is not an Ed25519 private key in PEM without a password",
        f"-> Move it away: mv {path} {path}.bad",
    ]
    code, out, err = call()
    assert (code, lines_of(out, "keys"), err) == (1, said, "")
    code, out, err = call("--fix")
    assert (code, lines_of(out, "keys")) == (1, said), "and what --fix cannot do hides nothing"
    assert err.startswith("hwbench: warning: no run was ended: The signing key ")
    assert len(err.splitlines()) == 1
    path.rename(f"{path}.bad")
    assert call()[0] == 0, "the advice helps"
    (own_home / "trusted" / "other.json").write_bytes(content)
    code, out, _ = call()
    (line, advice) = lines_of(out, "keys")
    assert (code, advice) == (1, "-> Remove or restore it")
    assert line.startswith(f"problem keys {own_home / 'trusted' / 'other.json'} is not a trusted key: ")
    assert lines_of(out, "tags") == ["unknown tags the keys do not say: see above"]


def test_a_browser_that_is_not_here_is_absent_and_one_that_was_named_is_a_problem(
    own_home: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch, "browser")
    nowhere = tmp_path / "nowhere"
    monkeypatch.setattr("hwbench_mlflow.backends._browser.PLACES", ())
    monkeypatch.setenv("PATH", str(nowhere))
    code, out, _ = call()
    assert (code, lines_of(out, "browser")) == (0, [
        "absent browser no Chromium, Chrome or Edge was found",
        "-> Install one (Debian: apt install chromium), or name its executable with --browser",
    ])  # fmt: skip
    named = tmp_path / "chromium"
    monkeypatch.setenv("HWBENCH_BROWSER", str(named))
    code, out, _ = call()
    assert (code, lines_of(out, "browser")) == (1, [
        f"problem browser {named} is not an executable file", "-> Check --browser or HWBENCH_BROWSER",
    ])  # fmt: skip
    named.write_text("#!/bin/sh\n")
    named.chmod(0o755)
    monkeypatch.setenv("HWBENCH_ONNXRUNTIME_WEB", str(nowhere))
    code, out, _ = call()
    (line, advice) = lines_of(out, "browser")
    assert (code, line) == (0, f"absent browser {named}; onnxruntime-web is not installed (looked in {nowhere})")
    assert advice.startswith("-> npm install --prefix ")
    nowhere.mkdir()
    (nowhere / "ort.webgpu.min.mjs").write_text("")
    assert lines_of(call()[1], "browser") == [f"ok browser {named}, with onnxruntime-web from {nowhere}"]


@pytest.mark.slow
def test_the_probe_of_a_platform_without_its_browser_says_the_same(
    own_home: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch, "platforms")
    real = probing.probe_isolated
    monkeypatch.setattr(probing, "probe_isolated", lambda _: real([Platform.WEBGPU]))
    monkeypatch.setenv("HWBENCH_BROWSER", str(tmp_path / "chromium"))
    code, out, _ = call("--probe")
    assert (code, lines_of(out, "platform")) == (0, [
        f"absent platform webgpu NOT_INSTALLED: {tmp_path / 'chromium'} is not an executable file",
        "-> Check --browser or HWBENCH_BROWSER",
    ])  # fmt: skip


def test_a_clock_that_is_set_and_a_server_s_that_is_wrong_are_told(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert levels("clocks", setup) == [Level.OK]

    class Answer:
        headers = {"Date": "Wed, 01 Jan 2020 00:00:00 GMT"}  # noqa: RUF012

    monkeypatch.setattr(requests, "get", lambda *arguments, **settings: Answer())
    server = Setup(tracking_uri="http://x", db=setup.db, published=setup.published, stuck_hours=6, probe=False)
    assert levels("clocks", server) == [Level.OK, Level.PROBLEM]
    Answer.headers = {}
    assert levels("clocks", server) == [Level.OK, Level.UNKNOWN]


CLOCKS = {
    "before": ("problem", "it is 1970-01-02 by this machine's clock: before hwbench was installed",
               "-> Set the clock: runs are ordered, and certificates checked, by it"),
    "set": ("warning", "the wall clock moved +3000.0 ms beside the monotonic one",
            "-> Wait until time synchronisation has settled"),
    "server": ("problem", "the server's clock is -3600 s from ours",
               "-> Synchronise both: runs from two machines are ordered by their times"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", CLOCKS)
def test_a_clock_that_is_off_is_one_line_that_says_what_to_do(
    wrong: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch, "clocks")
    offset = {"before": 100_000.0 - time.time(), "set": 0.0, "server": 0.0}[wrong]
    real, steps = time.time, [0.0, 0.0, 3.0 if wrong == "set" else 0.0]

    def now() -> float:
        step = steps.pop(0) if steps else 0.0
        return fixed + offset + step

    fixed, mono = float(int(real())), time.monotonic()  # a server's Date has no fractions
    clock = SimpleNamespace(
        time=now, monotonic=lambda: mono, sleep=lambda _: None, strftime=time.strftime,
        gmtime=lambda: time.gmtime(fixed + offset),
    )  # fmt: skip
    monkeypatch.setattr(machine_checks, "time", clock)
    arguments: tuple[str, ...] = ()
    if wrong == "server":
        stated = email.utils.formatdate(fixed - 3600, usegmt=True)
        monkeypatch.setattr(requests, "get", lambda *_, **__: SimpleNamespace(headers={"Date": stated}))
        arguments = ("--tracking-uri", "http://lab:5000")
    level, seen, advice = CLOCKS[wrong]
    code, out, _ = call(*arguments)
    assert code == (1 if level == "problem" else 0)
    found = [line for line in lines_of(out, "clocks") if not line.startswith("ok ")]
    assert found == [f"{level} clocks {seen}", advice]


@pytest.mark.parametrize(
    ("free", "files", "expected"),
    [
        (10**12, 9, (0, "ok", "931.3 GiB free", [])),
        (10**9, 9, (0, "warning", "954 MiB free", ["-> Free some: a result that cannot be written is lost"])),
        (10**6, 9, (1, "problem", "1 MiB free", ["-> Free some: a result that cannot be written is lost"])),
        (0, 9, (1, "problem", "0 MiB free", ["-> Free some: a result that cannot be written is lost"])),
        (10**12, 0, (1, "problem", "931.3 GiB free, and not one more file", ["-> Remove files: it has no inode left"])),
    ],
    ids=["room", "little", "almost none", "none", "no inode"],
)
def test_a_full_disk_is_one_line_a_file_system_that_says_what_to_do(
    free: int, files: int, expected: tuple[int, str, str, list[str]], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, level, seen, advice = expected
    tmp_path = Path.cwd()
    few(monkeypatch, "disk")
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path / "not yet" / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(machine_checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_files=10, f_favail=files))
    found, out, _ = call()
    line = f"{level} disk working folder, home, warehouse, temporary files ({tmp_path}): {seen}"
    assert (found, lines_of(out, "disk")) == (code, [line, *advice])


def test_a_busy_machine_is_told(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for average, taken in ((0.0, 0.4), (1000.0, 0.4), (None, 0.4), (0.0, 0.6), (None, 0.6)):
        others = Others(cores=taken, of=2, most="'stress'", most_cores=taken, pid=4711)
        monkeypatch.setattr(neighbours, "Look", lambda others=others: SimpleNamespace(others=lambda: others))
        monkeypatch.setattr(host, "load_average", lambda average=average: average)
        (found,) = run_checks(setup, {"load": machine_checks.load})
        told.append((found.level, found.seen))
        assert bool(found.remedy) is (found.level is Level.WARNING)
        if found.remedy:
            assert ("end what else runs" in found.remedy) is (taken > 0.5), "what is over cannot be ended"
    untold, calm = "this system does not tell its load", "other processes take 0.4 of 2 cores"
    noisy = "other processes take 0.6 of 2 cores, most of it 'stress' (process 4711, 0.6)"
    assert told == [
        (Level.OK, f"{calm}; load 0.00 over the last minute"),
        (Level.WARNING, f"{calm}; load 1000.00 over the last minute"),
        (Level.UNKNOWN, f"{calm}; {untold}"),
        (Level.WARNING, f"{noisy}; load 0.00 over the last minute"),
        (Level.WARNING, f"{noisy}; {untold}"),
    ]


def test_a_governor_turbo_and_smt_that_are_not_told_are_unknown(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpu_governor", "cpu_turbo", "cpu_smt"):
        monkeypatch.setattr(host, name, lambda: None)
    assert levels("processor", setup)[:3] == [Level.UNKNOWN] * 3
    monkeypatch.setattr(host, "cpu_governor", lambda: "powersave")
    assert levels("processor", setup)[0] is Level.WARNING
    monkeypatch.setattr(host, "cpu_governor", lambda: "performance")
    assert levels("processor", setup)[0] is Level.OK


def test_a_warehouse_or_a_published_file_that_is_none_is_a_problem(setup: Setup) -> None:
    assert levels("warehouse", setup) + levels("published", setup) == [Level.ABSENT, Level.ABSENT]
    for path in (setup.db, setup.published):
        path.write_bytes(b"no database" * 1000)
    assert levels("warehouse", setup) + levels("published", setup) == [Level.PROBLEM, Level.PROBLEM]


def test_no_platform_is_called_ok_that_was_not_probed(setup: Setup) -> None:
    assert levels("platforms", setup) == [Level.UNKNOWN]


def test_locks_that_others_can_take_are_told(setup: Setup, isolated: Path) -> None:
    assert levels("locks", setup) == [Level.OK]
    folder = isolated / "locks"
    folder.chmod(0o777)
    try:
        assert levels("locks", setup) == [Level.WARNING]
    finally:
        folder.chmod(0o755)


def test_the_whole_is_a_table_or_one_object_and_exits_by_the_worst(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert psutil.pid_exists(1)
    fine = {"a": checks.spool}
    monkeypatch.setattr(checks, "CHECKS", fine)
    code, out, _ = call()
    assert (code, out) == (0, "ok       spool  nothing waits to be delivered\n")
    document = json.loads(call("--json")[1])
    assert document == {
        "schema_version": 1,
        "checks": [{"check": "spool", "level": "ok", "seen": "nothing waits to be delivered", "remedy": None}],
        "ended": [],
    }

    def bad(setup: Setup) -> Iterator[Finding]:
        yield Finding(check="b", level=Level.PROBLEM, seen="it is wrong", remedy="Mend it")

    monkeypatch.setattr(checks, "CHECKS", {**fine, "b": bad})
    code, out, _ = call()
    assert (code, "-> Mend it" in out) == (1, True)
