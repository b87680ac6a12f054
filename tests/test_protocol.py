"""Messages between the parent and a worker: one line each, and nothing else is taken for one."""

from __future__ import annotations

import typing

import msgspec
import pytest

from hwbench_mlflow import protocol
from hwbench_mlflow.backends.fake import FakeBackend
from hwbench_mlflow.model import FailureCategory, Workload

OPEN = protocol.Open(
    device_id="cpu", workload=Workload(model="m"), nonce="aa", slots=4, min_samples=12, seconds=0.3, scaling=True
)
PROBED = protocol.Probed(availability=FakeBackend().probe(), import_ns=7)
FAILED = protocol.Failed(category=FailureCategory.OUT_OF_MEMORY, message="line\nbreak \u2028", remedy=None)


def test_a_command_and_an_event_survive_the_line() -> None:
    assert protocol.read_command(protocol.write(OPEN)) == OPEN
    assert protocol.read_event(protocol.write(PROBED)) == PROBED


@pytest.mark.parametrize("message", [OPEN, PROBED, FAILED, protocol.Go(), protocol.WindowOver()])
def test_a_message_is_exactly_one_line(message: protocol.Command | protocol.Event) -> None:
    data = protocol.write(message)
    assert (data.count(b"\n"), data[-1:]) == (1, b"\n")


def test_every_command_and_event_is_told_apart_by_its_tag() -> None:
    kinds = [*typing.get_args(protocol.Command), *typing.get_args(protocol.Event)]
    assert len({kind.__struct_config__.tag for kind in kinds}) == len(kinds)


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"{", b"Vendor SDK 1.0\n", b"null", b"[]", b'{"type":"Nothing"}', b'{"type":"Ready"}', b"\xff\xfe"],
)
def test_nonsense_is_refused(line: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        protocol.read_event(line)


def test_an_event_is_no_command() -> None:
    with pytest.raises(msgspec.DecodeError):
        protocol.read_command(protocol.write(PROBED))
    with pytest.raises(msgspec.DecodeError):
        protocol.read_event(protocol.write(OPEN))
