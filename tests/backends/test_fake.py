"""The backend that is no hardware says so, whatever happens."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np

from hwbench_mlflow.backends.fake import DEVICE, EMULATION_REASON, FakeBackend
from hwbench_mlflow.model import Precision
from hwbench_mlflow.workloads.base import InputSpec
from tests.backends.tiny import tiny_model, tiny_workload


def test_the_fake_device_is_emulated_in_probe_and_facts() -> None:
    assert FakeBackend().probe().devices == (DEVICE,)
    assert DEVICE.emulation_reason == EMULATION_REASON
    with FakeBackend().open(DEVICE, tiny_workload(precision=Precision.BF16), tiny_model(), 3) as session:
        facts = session.facts()
    assert facts.device.emulation_reason == EMULATION_REASON
    assert facts.effective_precision is Precision.FP32
    assert FakeBackend().calibrate(DEVICE, Precision.FP32, 0.1) is None


def test_hiding_the_emulation_does_not_help_the_caller() -> None:
    """The session names its own device, not the one it was handed."""
    disguised = dataclasses.replace(DEVICE, emulation_reason=None, name="NVIDIA H100")
    with FakeBackend().open(disguised, tiny_workload(), tiny_model(), None) as session:
        assert session.facts().device == DEVICE


def test_it_drives_any_callable_without_torch() -> None:
    def double(x: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        return {"y": 2 * x}

    model = dataclasses.replace(
        tiny_model(), module=double, input_spec=(InputSpec("x", "normal", (1, 3)),), output_names=("y",)
    )
    inputs = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    with FakeBackend().open(DEVICE, tiny_workload(batch_size=1), model, None) as session:
        session.stage([{"x": inputs}])
        np.testing.assert_array_equal(session.fetch(session.run(0))["y"], 2 * inputs)


def test_its_probe_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys\n"
        "from hwbench_mlflow.backends.fake import FakeBackend\n"
        "FakeBackend().probe()\n"
        "assert not {'torch', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
