"""Other MLflow runs are tagged with hardware only from a signed probe of this boot, and only if that was asked for."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hwbench_mlflow import host
from hwbench_mlflow.attest import make_statement, sign
from hwbench_mlflow.backends.fake import FakeBackend
from hwbench_mlflow.cli import checks
from hwbench_mlflow.cli.findings import Level, Setup
from hwbench_mlflow.codec import encode, sha256
from hwbench_mlflow.errors import CorruptEvidence, KeyTrouble, StoreError
from hwbench_mlflow.keystore import load_keyring, revoke, signing_key
from hwbench_mlflow.last_probe import MAX_BYTES, PROBE_PREDICATE, RunTags, keep, recall
from hwbench_mlflow.model import Availability, AvailabilityStatus, Device, DeviceCheck, Platform
from tests.commands import command, environment, hwbench

NOW = datetime.now(UTC).isoformat(timespec="milliseconds")


def probed(*names: str, platform: Platform = Platform.CUDA, passed: bool = True) -> Availability:
    """What a probe of this boot could have found: devices of these names."""
    devices = tuple(Device(platform=platform, id=f"{platform}:{i}", name=name) for i, name in enumerate(names))
    return Availability(
        platform=platform,
        status=AvailabilityStatus.AVAILABLE,
        reason="made by a test",
        devices=devices,
        checks=tuple(DeviceCheck(device_id=d.id, operation="matmul", passed=passed, reason="") for d in devices),
        probe_id="ab" * 16,
        started_at=NOW,
        boot_id=host.boot_id(),
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, with the tags asked for."""
    folder = tmp_path / "home"
    monkeypatch.setenv("HWBENCH_HOME", str(folder))
    monkeypatch.setenv("HWBENCH_TAG_RUNS", "1")
    return folder


def stored(home: Path, platform: str = "cuda") -> Path:
    return home / "probes" / f"{platform}.json"


def test_it_is_off_unless_it_is_asked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep([probed("NVIDIA L4")])
    assert RunTags().in_context()
    for value in ("", "0", "true", "yes"):
        monkeypatch.setenv("HWBENCH_TAG_RUNS", value)
        assert not RunTags().in_context()
    monkeypatch.delenv("HWBENCH_TAG_RUNS")
    assert not RunTags().in_context()


def test_what_was_verified_in_this_boot_is_tagged_with_its_time(home: Path) -> None:
    keep([probed("NVIDIA L4", "NVIDIA L4"), probed("AMD EPYC", platform=Platform.CPU)])
    assert RunTags().tags() == {
        "hwbench.hardware.cuda": f"2 x NVIDIA L4; verified {NOW}",
        "hwbench.hardware.cpu": f"AMD EPYC; verified {NOW}",
    }


def test_nothing_kept_is_no_tag(home: Path) -> None:
    assert RunTags().tags() == {}


def test_what_was_not_verified_is_no_tag(home: Path) -> None:
    keep([probed("NVIDIA L4", passed=False)])
    assert RunTags().tags() == {}


def test_an_emulation_is_no_hardware(home: Path) -> None:
    fake = dataclasses.replace(FakeBackend().probe(), started_at=NOW, boot_id=host.boot_id())
    assert fake.verified
    keep([fake])
    assert recall(Platform.CPU, load_keyring()) == fake
    assert RunTags().tags() == {}


def test_a_later_probe_that_finds_nothing_takes_the_tag_away(home: Path) -> None:
    keep([probed("NVIDIA L4")])
    keep([dataclasses.replace(probed(), status=AvailabilityStatus.NO_DEVICE)])
    assert RunTags().tags() == {}


@pytest.mark.parametrize("boot", ["11111111-2222-3333-4444-555555555555", None])
def test_a_probe_of_another_boot_is_not_used(home: Path, boot: str | None) -> None:
    keep([dataclasses.replace(probed("NVIDIA L4"), boot_id=boot)])
    assert RunTags().tags() == {}
    with pytest.raises(CorruptEvidence, match="before a reboot"):
        recall(Platform.CUDA, load_keyring())


def test_where_the_system_names_no_boot_nothing_is_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep([dataclasses.replace(probed("NVIDIA L4"), boot_id=None)])
    monkeypatch.setattr(host, "boot_id", lambda: None)
    assert RunTags().tags() == {}


@pytest.mark.parametrize(
    "started_at",
    [(datetime.now(UTC) + timedelta(days=1)).isoformat(), "", "2026-01-01"],
    ids=["to come", "none", "no time of day"],
)
def test_a_time_that_cannot_be_is_not_used(home: Path, started_at: str) -> None:
    keep([dataclasses.replace(probed("NVIDIA L4"), started_at=started_at)])
    assert RunTags().tags() == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [("NVIDIA L4", "NVIDIA H100"), (NOW, "2026-01-01T00:00:00+00:00"), ('"probe"', '"prove"')],
    ids=["its device", "its time", "its kind"],
)
def test_an_edited_probe_is_not_used(home: Path, old: str, new: str) -> None:
    keep([probed("NVIDIA L4")])
    text = stored(home).read_text()
    assert old in text
    stored(home).write_text(text.replace(old, new))
    assert RunTags().tags() == {}
    with pytest.raises(CorruptEvidence):
        recall(Platform.CUDA, load_keyring())


def test_a_signature_of_something_else_or_of_a_stranger_is_no_probe(home: Path, tmp_path: Path) -> None:
    keep([probed("NVIDIA L4")])
    probe = encode(probed("NVIDIA H100"))
    subjects = {"probe.json": sha256(probe)}
    for key, kind in (
        (signing_key(), "urn:hwbench:run-binding:v1"),
        (signing_key(tmp_path / "other"), PROBE_PREDICATE),
    ):
        envelope = sign(make_statement(subjects, kind, {}), key)
        stored(home).write_bytes(encode({"attestation": envelope.decode(), "probe": probe.decode()}))
        assert RunTags().tags() == {}
    envelope = sign(make_statement(subjects, PROBE_PREDICATE, {}), signing_key())
    stored(home).write_bytes(encode({"attestation": envelope.decode(), "probe": probe.decode()}))
    assert RunTags().tags() == {"hwbench.hardware.cuda": f"NVIDIA H100; verified {NOW}"}, "the counter-test"


def test_a_revoked_key_takes_the_tag_away(home: Path) -> None:
    keep([probed("NVIDIA L4")])
    revoke(signing_key().keyid)
    assert RunTags().tags() == {}


def test_a_probe_of_another_platform_is_not_used(home: Path) -> None:
    keep([probed("NVIDIA L4")])
    stored(home).rename(stored(home, "rocm"))
    assert RunTags().tags() == {}


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff", b"[" * 100_000, b"x" * (MAX_BYTES + 1)])
def test_junk_is_not_used(home: Path, junk: bytes) -> None:
    keep([probed("NVIDIA L4"), probed("AMD EPYC", platform=Platform.CPU)])
    stored(home).write_bytes(junk)
    assert list(RunTags().tags()) == ["hwbench.hardware.cpu"]


def test_a_broken_home_gives_no_tag_and_no_word(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep([probed("NVIDIA L4")])
    stored(home).unlink()
    stored(home).mkdir()
    assert RunTags().tags() == {}
    (home / "trusted").chmod(0o777)
    assert RunTags().tags() == {}
    monkeypatch.setenv("HWBENCH_HOME", str(home / "signing_key.pem"))
    assert RunTags().tags() == {}
    monkeypatch.setenv("HWBENCH_HOME", "~nobody-of-that-name/x")
    assert RunTags().tags() == {}
    assert capsys.readouterr() == ("", "")


def test_a_probe_that_cannot_be_kept_is_said(home: Path) -> None:
    signing_key()
    (home / "probes").write_text("in the way")
    with pytest.raises(StoreError, match="cannot keep the probe"):
        keep([probed("NVIDIA L4")])
    (home / "signing_key.pem").write_text("nonsense")
    with pytest.raises(KeyTrouble):
        keep([probed("NVIDIA L4")])


def test_loading_it_imports_two_small_modules_and_says_nothing() -> None:
    """What MLflow does in every process: it takes a few ms because there is nothing else to import."""
    code = """
import sys
before = set(sys.modules)
from hwbench_mlflow.last_probe import RunTags
plugin = RunTags()
assert not plugin.in_context()
new = set(sys.modules) - before
assert {name for name in new if name.partition(".")[0] not in sys.stdlib_module_names} == {
    "hwbench_mlflow", "hwbench_mlflow.last_probe"}, new
"""
    env = {name: value for name, value in os.environ.items() if name != "HWBENCH_TAG_RUNS"}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_run_of_anybody_is_tagged_after_a_real_probe(tmp_path: Path, store_uri: str) -> None:
    env = environment(HWBENCH_HOME=str(tmp_path / "home"), MLFLOW_TRACKING_URI=store_uri)
    found = hwbench("devices", "--platform", "cpu", "--json", cwd=tmp_path, env=env)
    assert found.returncode == 0, found.stderr
    name = json.loads(found.stdout)["platforms"][0]["devices"][0]["name"]
    code = (
        "import mlflow, os, sys\n"
        "heavy = {'torch', 'securesystemslib', 'openvino', 'hwbench_mlflow.keystore'}\n"
        "before = heavy & set(sys.modules)\n"
        "def tags():\n"
        "    with mlflow.start_run() as run: pass\n"
        "    every = mlflow.get_run(run.info.run_id).data.tags\n"
        "    return {k: v for k, v in every.items() if k.startswith('hwbench')}\n"
        "assert tags() == {}\n"
        "assert heavy & set(sys.modules) == before\n"
        "os.environ['HWBENCH_TAG_RUNS'] = '1'\n"
        "[(tag, words)] = tags().items()\n"
        "assert 'torch' not in sys.modules and 'openvino' not in sys.modules\n"
        "print(tag, words)\n"
    )
    done = command(sys.executable, "-W", "ignore", "-c", code, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"hwbench.hardware.cpu {name}; verified 20")


def test_a_run_of_hwbench_that_is_tagged_is_still_its_evidence(home: Path, store_uri: str) -> None:
    from hwbench_mlflow.evidence import judge, seal
    from hwbench_mlflow.model import VerdictState
    from hwbench_mlflow.tracking import Store
    from tests.honest import honest

    keep([probed("NVIDIA L4")])
    result, samples = honest()
    key, store = signing_key(), Store(store_uri)
    run_id = store.start_pushed(result)
    store.log_result(run_id, seal(result, samples, key), key, load_keyring())
    index, files = store.read_run(run_id)
    assert "hwbench.hardware.cuda" in index.tags
    assert judge(files, index, load_keyring()).verdict.state is VerdictState.VERIFIED


def test_the_doctor_says_why_a_probe_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tracking_uri=None, db=home, published=home, stuck_hours=6, probe=False)

    def said() -> list[tuple[Level, str]]:
        return [(finding.level, finding.seen) for finding in checks.CHECKS["tags"](setup)]

    assert said() == [(Level.WARNING, "no hardware is known: no run is tagged")]
    keep([probed("NVIDIA L4"), dataclasses.replace(probed("X", platform=Platform.ROCM), boot_id="other")])
    [(stale, why), (fresh, words)] = said()
    assert (stale, fresh) == (Level.WARNING, Level.OK)
    assert "the last probe of rocm is not used: it is from before a reboot" in why
    assert words == f"cuda: NVIDIA L4; verified {NOW}"
    monkeypatch.setenv("HWBENCH_TAG_RUNS", "true")
    assert said()[0][0] is Level.WARNING
    monkeypatch.delenv("HWBENCH_TAG_RUNS")
    assert said()[0][0] is Level.OK
