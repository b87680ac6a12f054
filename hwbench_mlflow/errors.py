"""Every error hwbench raises on purpose, and the exit code each one means.

    HwbenchError                 exit 1   one line: what is wrong, where, what to do
    |-- UsageError               exit 2   a flag, a name or a file that cannot be right
    |   `-- UnknownModel
    |-- Refused                  exit 3   a gate, a verification or a regression check said no
    |-- HardwareUnavailable      exit 4   the platform or the device asked for is not there
    |-- BenchmarkFailed          exit 1   the measurement itself failed; carries a category
    |   `-- Interrupted
    |-- CorruptEvidence          exit 1   bytes that are not what hwbench writes
    |-- KeyTrouble               exit 1   a signing key that is missing, unreadable or unsafe
    |-- FleetError               exit 1   the fleet cannot be joined or entered
    `-- StoreError               exit 1   the tracking store or the warehouse cannot be used
        `-- StoreAway                     it does not answer: what was meant for it can wait

Stdlib only. Nothing here imports another module of the package except :mod:`.model`'s vocabulary, and that not when
this module is imported: the root of the command line needs the errors for ``--help``, which is to be instant.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwbench_mlflow.model import Availability, FailureCategory


class ExitCode(IntEnum):
    """What the ``hwbench`` command exits with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNAVAILABLE = 4


class HwbenchError(Exception):
    """Base of the tree. ``str(error)`` is one line for the user; ``remedy`` says what to do."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message}. {self.remedy}" if self.remedy else message


class UsageError(HwbenchError):
    """The request cannot be right, whatever the machine."""

    exit_code = ExitCode.USAGE


class UnknownModel(UsageError):
    """A model name that is neither in the registry, nor a folder, nor a resolvable hub name."""


class Refused(HwbenchError):
    """A check that guards something said no."""

    exit_code = ExitCode.REFUSED


class HardwareUnavailable(HwbenchError):
    """The platform or device asked for is not there; carries the probe's answer."""

    exit_code = ExitCode.UNAVAILABLE

    def __init__(self, message: str, availability: Availability, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.availability = availability


class BenchmarkFailed(HwbenchError):
    """The measurement failed; ``category`` says how, for filters and status reports."""

    def __init__(self, message: str, category: FailureCategory, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.category = category


class Interrupted(BenchmarkFailed):
    """The user or the system asked us to stop (SIGINT, SIGTERM)."""

    def __init__(self, message: str) -> None:
        from hwbench_mlflow.model import FailureCategory

        super().__init__(message, FailureCategory.INTERRUPTED)


class CorruptEvidence(HwbenchError):
    """Bytes that do not decode to what hwbench writes."""


class KeyTrouble(HwbenchError):
    """A signing key that is missing, unreadable, or readable by others."""


class FleetError(HwbenchError):
    """The fleet cannot be joined or entered."""


class StoreError(HwbenchError):
    """The tracking store or the warehouse cannot be used."""


class StoreAway(StoreError):
    """The tracking store does not answer now. It has refused nothing: what was meant for it can be queued."""
