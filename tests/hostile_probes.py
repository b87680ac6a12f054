"""Backends whose probes misbehave, each in one way. Named to a child process as ``module:Class``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any, ClassVar

from hwbench_mlflow.backends.fake import DEVICE, FakeBackend
from hwbench_mlflow.model import Availability, AvailabilityStatus, Platform


def target(kind: type) -> str:
    return f"tests.hostile_probes:{kind.__name__}"


class _Cuda(FakeBackend):
    platform: ClassVar[Platform] = Platform.CUDA

    def calibrate(self, *arguments: Any) -> None:
        return None


class Crashes(_Cuda):
    def probe(self) -> Availability:
        os.write(2, b"vendor: about to fall over\n")
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError("unreachable")


class Hangs(_Cuda):
    def probe(self) -> Availability:
        time.sleep(600)
        raise AssertionError("unreachable")


class HangsWithAChild(_Cuda):
    """Its child inherits the pipes, and would hold them open after it."""

    def probe(self) -> Availability:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open(os.environ["HOSTILE_PID_FILE"], "w") as file:
            file.write(str(child.pid))
        time.sleep(600)
        raise AssertionError("unreachable")


class Raises(_Cuda):
    def probe(self) -> Availability:
        raise RuntimeError("the vendor changed its mind")


class LeavesEarly(_Cuda):
    def probe(self) -> Availability:
        os._exit(0)


class Chatters(FakeBackend):
    """Prints on standard output from Python and from below it, as vendors' libraries do."""

    def probe(self) -> Availability:
        print("Welcome to VendorSDK 3.1!")
        os.write(1, b'{"platform": "cuda", "status": "AVAILABLE"}\n')
        return super().probe()


class CrashesAtExit(FakeBackend):
    """Answers well, and falls over in an exit handler, which must not count."""

    def probe(self) -> Availability:
        import atexit

        atexit.register(lambda: os.kill(os.getpid(), signal.SIGSEGV))
        return super().probe()


class AnswersForAnother(_Cuda):
    """Claims cuda, answers with the cpu platform's availability."""

    def probe(self) -> Availability:
        return FakeBackend().probe()


class ClaimsWithoutDevices(_Cuda):
    def probe(self) -> Availability:
        return Availability(platform=Platform.CUDA, status=AvailabilityStatus.AVAILABLE, reason="trust me")


class ListsAStranger(_Cuda):
    """Answers for cuda with a device (and its passed check) of the cpu platform."""

    def probe(self) -> Availability:
        honest = FakeBackend().probe()
        return Availability(
            platform=Platform.CUDA,
            status=AvailabilityStatus.AVAILABLE,
            reason="trust me",
            devices=(DEVICE,),
            checks=honest.checks,
        )


class ListsUnchecked(_Cuda):
    def probe(self) -> Availability:
        honest = FakeBackend().probe()
        return Availability(
            platform=Platform.CPU, status=AvailabilityStatus.AVAILABLE, reason="trust me", devices=honest.devices
        )
