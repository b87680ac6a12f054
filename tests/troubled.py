"""Backends in whose middle something happens to the run. Driven by environment variables of the test."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

from hwbench_mlflow.backends.cpu import CpuBackend
from hwbench_mlflow.model import Calibration, Device, Precision
from tests.adversaries import _Wrapped, _Wrapping


class _Stopping(_Wrapped):
    inside = False

    def witness_begin(self) -> None:
        """The timed window opens now."""
        self.inner.witness_begin()
        Path(os.environ["TROUBLE_PID_FILE"]).write_text(str(os.getpid()))
        self.inside = True

    def synchronize(self) -> None:
        self.inner.synchronize()
        if self.inside:
            self.inside = False
            os.kill(os.getppid(), int(os.environ["TROUBLE_SIGNAL"]))


class ToldToStop(_Wrapping):
    """Its parent gets a signal in the middle of the timed window; it goes on computing until it is ended."""

    session: ClassVar[type[_Wrapped]] = _Stopping


class StoreGoesAway(CpuBackend):
    """Measures; before the parent can log the result, the tracking server is gone."""

    def calibrate(self, device: Device, precision: Precision, seconds: float) -> Calibration | None:
        found = super().calibrate(device, precision, seconds)
        os.killpg(int(os.environ["TROUBLE_STORE_PID"]), signal.SIGKILL)
        return found


class Unsettled(CpuBackend):
    """Says what its worker could do on standard error, and dies without a signal."""

    def probe(self) -> Any:
        raise RuntimeError("the vendor's library is of another century")
