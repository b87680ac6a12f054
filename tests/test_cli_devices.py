"""hwbench devices: for people, for programs, for MLflow."""

from __future__ import annotations

import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import click.testing
import pytest
from rich.console import Console

from hwbench_mlflow import probing
from hwbench_mlflow.backends.fake import FakeBackend
from hwbench_mlflow.cli.devices import devices, print_table
from hwbench_mlflow.model import Availability, AvailabilityStatus, Device, DeviceCheck, Platform

ABSENT = Availability(
    platform=Platform.CUDA,
    status=AvailabilityStatus.NO_DRIVER,
    reason="NVIDIA's driver does not answer [error 12]",
    remedy="Install NVIDIA's driver",
)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Probes that answer at once; what they were asked."""
    asked: list[Any] = []

    def probe(platforms: Any, timeout_s: float = 60.0, **_: Any) -> list[Availability]:
        asked.append((list(platforms), timeout_s))
        return [FakeBackend().probe() if platform is Platform.CPU else ABSENT for platform in platforms]

    monkeypatch.setattr(probing, "probe_isolated", probe)
    return asked


def _run(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(devices, arguments)


def test_all_platforms_are_asked_by_default(answered: list[Any]) -> None:
    assert _run().exit_code == 0
    assert answered == [(list(Platform), 60.0)]


def test_a_filter_may_repeat_and_absence_is_no_failure(answered: list[Any]) -> None:
    result = _run("--platform", "cuda", "--platform", "cpu", "--platform", "cuda", "--timeout", "5")
    assert result.exit_code == 0
    assert answered == [([Platform.CUDA, Platform.CPU], 5.0)]


def test_an_unknown_platform_is_a_usage_error_that_lists_what_is_allowed(answered: list[Any]) -> None:
    result = _run("--platform", "cuba")
    assert result.exit_code == 2
    assert "webgpu" in result.output
    assert not answered


def test_json_is_one_object_with_a_version_and_says_what_is_verified(answered: list[Any]) -> None:
    result = _run("--json", "--platform", "cpu", "--platform", "cuda")
    document = json.loads(result.stdout)
    assert document["schema_version"] == 1
    assert document["host"]["cpu_count_logical"] >= 1
    cpu, cuda = document["platforms"]
    assert (cpu["platform"], cpu["status"], cpu["verified"]) == ("cpu", "AVAILABLE", True)
    assert cpu["devices"][0]["emulation_reason"]
    assert (cuda["platform"], cuda["status"], cuda["verified"]) == ("cuda", "NO_DRIVER", False)
    assert cuda["remedy"] == "Install NVIDIA's driver"
    assert set(cuda["plan"]) == {"hardware", "driver", "package", "rent", "why"}


def _table(*answers: Availability, width: int = 80) -> str:
    out = io.StringIO()
    print_table(Console(file=out, width=width), answers)
    return out.getvalue()


def test_the_table_is_plain_text_of_80_columns_with_reason_and_remedy() -> None:
    text = _table(FakeBackend().probe(), ABSENT)
    assert text.isascii()
    assert max(len(line) for line in text.splitlines()) <= 80
    words = " ".join(text.split())
    for expected in (
        "NO_DRIVER",
        "[error 12]",
        "-> Install NVIDIA's driver",
        "rent: AWS g6 (L4), p5 (H100);",
        "fake:0: hwbench fake device",
        "emulated:",
    ):
        assert expected in words


def test_the_table_says_which_device_is_not_verified() -> None:
    names = ("cuda:0", "cuda:1")
    answer = Availability(
        platform=Platform.CUDA,
        status=AvailabilityStatus.AVAILABLE,
        reason="ran on one",
        devices=tuple(Device(platform=Platform.CUDA, id=i, name="H100", memory_bytes=80 * 2**30) for i in names),
        checks=(
            DeviceCheck(device_id="cuda:0", operation="matmul", passed=True, reason="right"),
            DeviceCheck(device_id="cuda:1", operation="matmul", passed=False, reason="the product is wrong"),
        ),
    )
    words = " ".join(_table(answer, width=120).split())
    assert "1 of 2" in words
    assert "not verified: the product is wrong" in words
    assert "80 GiB" in words


def test_log_hands_the_answers_to_tracking(answered: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import hwbench_mlflow

    logged: list[Any] = []
    module = types.ModuleType("hwbench_mlflow.tracking")
    module.log_devices = lambda *given: logged.append(given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hwbench_mlflow.tracking", module)
    monkeypatch.setattr(hwbench_mlflow, "tracking", module, raising=False)
    assert _run("--log", "--platform", "cuda", "--tracking-uri", "sqlite:///x.db", "--experiment", "e").exit_code == 0
    ((answers, host, uri, experiment),) = logged
    assert (answers, uri, experiment) == ([ABSENT], "sqlite:///x.db", "e")
    assert host.hostname


def test_nothing_but_data_on_standard_output_for_real() -> None:
    """Whatever is installed here, and whatever the vendors' libraries print."""
    result = _run("--json", "--platform", "webnn", "--platform", "qnn")
    document = json.loads(result.stdout)
    assert [p["platform"] for p in document["platforms"]] == ["webnn", "qnn"]
    assert all(p["status"] in set(AvailabilityStatus) and p["reason"] for p in document["platforms"])
    assert result.stderr == ""


def test_the_availability_report_is_written_as_markdown_and_html(answered: list[Any], tmp_path: Path) -> None:
    done = _run("--platform", "cpu", "--platform", "cuda", "--html", f"{tmp_path}/d.html", "--markdown", "-")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    cpu, cuda = lines[6:8]
    assert "## What would make the others available" in lines
    assert [line.split(" | ")[0] for line in lines if "AWS" in line] == ["| cpu", "| cuda"]  # one is simulated
    assert "p5 \\(H100\\)" in done.stdout
    assert cpu.startswith("| cpu | AVAILABLE | yes | fake:0: hwbench fake device \\(SIMULATED:")
    assert (
        cuda
        == "| cuda | NO_DRIVER | no | — | NVIDIA's driver does not answer \\[error 12\\] | Install NVIDIA's driver |"
    )
    page = (tmp_path / "d.html").read_text(encoding="utf-8")
    assert "2 platforms, 1 with a verified device" in page
    assert "Install NVIDIA&#39;s driver" in page
    assert "SIMULATED: " in page
    assert "NCads_H100_v5" in page
    assert "script" not in page


def test_two_documents_do_not_share_standard_output(answered: list[Any]) -> None:
    assert _run("--json", "--markdown", "-").exit_code == 2
    assert not answered
