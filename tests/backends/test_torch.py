"""What the torch platforms share: placement, precision in force, errors, the peak."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch

from hwbench_mlflow.backends import _torch
from hwbench_mlflow.backends.cpu import DEVICE_ID, CpuBackend, cpu_knobs
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import AvailabilityStatus, CompileMode, Device, FailureCategory, Platform, Precision
from tests.backends.tiny import OUTPUT, reference, tiny_inputs, tiny_model, tiny_workload

CPU = Device(platform=Platform.CPU, id=DEVICE_ID, name="this processor")


class _Stub(torch.nn.Module):
    """A module that raises what it is given, when it runs."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.error = error

    def forward(self, **_: torch.Tensor) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), FailureCategory.OUT_OF_MEMORY),
        (MemoryError(), FailureCategory.OUT_OF_MEMORY),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
            FailureCategory.OUT_OF_MEMORY,
        ),
        (NotImplementedError("The operator 'aten::x' is not implemented"), FailureCategory.UNSUPPORTED_OPERATOR),
        (RuntimeError("\"conv\" not implemented for 'Half'"), FailureCategory.UNSUPPORTED_OPERATOR),
    ],
)
def test_torch_s_errors_become_categories_and_nothing_is_retried(error: Exception, category: FailureCategory) -> None:
    model = tiny_model()
    stub = types.SimpleNamespace(
        module=_Stub(error), workload=model.workload, input_spec=model.input_spec, output_names=model.output_names
    )
    with CpuBackend().open(CPU, model.workload, stub, 1) as session:  # type: ignore[arg-type]
        session.stage([tiny_inputs(0)])
        with pytest.raises(BenchmarkFailed) as caught:
            session.run(0)
    assert caught.value.category is category
    assert "\n" not in str(caught.value)


def test_an_error_that_is_not_understood_stays_what_it_is() -> None:
    model = tiny_model()
    stub = types.SimpleNamespace(
        module=_Stub(RuntimeError("something else")),
        workload=model.workload,
        input_spec=model.input_spec,
        output_names=model.output_names,
    )
    with CpuBackend().open(CPU, model.workload, stub, 1) as session:  # type: ignore[arg-type]
        session.stage([tiny_inputs(0)])
        with pytest.raises(RuntimeError, match="something else"):
            session.run(0)


@pytest.mark.parametrize("precision", [p for p in Precision if p is not Precision.INT8])  # torch's CPU refuses it
def test_the_precision_asked_for_is_the_one_in_force(precision: Precision) -> None:
    workload = tiny_workload(precision=precision)
    model = tiny_model(workload)
    expected = reference(model, tiny_inputs(0))
    with CpuBackend().open(CPU, workload, model, 1) as session:
        session.stage([tiny_inputs(0)])
        observed = session.fetch(session.run(0))[OUTPUT]
        assert session.facts().effective_precision is precision
    error = abs(observed - expected).max()
    # Reduced arithmetic leaves its mark on the outputs: without one, it was not reduced.
    assert error < 0.1
    assert (error > 1e-4) == (precision is not Precision.FP32)


def test_parameters_of_two_precisions_are_no_precision() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).to(torch.bfloat16))
    with pytest.raises(BenchmarkFailed, match="not of one precision"):
        _torch.effective_precision(module)


@pytest.mark.parametrize("kept_bits", [10, 7], ids=["tf32", "bf16"])
def test_rounded_fp32_products_are_noticed(monkeypatch: pytest.MonkeyPatch, kept_bits: int) -> None:
    """The guard looks at a product, not at a setting: here products are rounded as tensor cores do."""
    _torch.require_fp32_products(torch.device("cpu"))
    real = torch.Tensor.__matmul__

    def rounded(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        step = 2.0**kept_bits
        return real(torch.round(left * step) / step, torch.round(right * step) / step)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    with pytest.raises(BenchmarkFailed) as caught:
        _torch.require_fp32_products(torch.device("cpu"))
    assert caught.value.category is FailureCategory.FALLBACK_DETECTED


def test_settings_that_lower_fp32_are_put_right_and_put_back() -> None:
    knobs = cpu_knobs()
    assert knobs
    holder, attribute, _ = knobs["mkldnn.matmul.fp32_precision"]
    before = getattr(holder, attribute)
    setattr(holder, attribute, "bf16")
    try:
        workload = tiny_workload()
        with CpuBackend().open(CPU, workload, tiny_model(workload), 1) as session:
            assert session.facts().properties["mkldnn.matmul.fp32_precision"] == "ieee"
        assert getattr(holder, attribute) == "bf16"
    finally:
        setattr(holder, attribute, before)


def test_threads_are_set_for_the_session_alone() -> None:
    before = torch.get_num_threads()
    workload = tiny_workload()
    with CpuBackend().open(CPU, workload, tiny_model(workload), before + 1) as session:
        assert session.facts().threads == before + 1
    assert torch.get_num_threads() == before


def test_placing_keeps_tied_weights_tied_and_copies_nothing_needlessly() -> None:
    tied = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4), "b": torch.nn.Linear(4, 4)})
    tied["b"].weight = tied["a"].weight
    placed = _torch.place(tied, torch.device("cpu"), torch.bfloat16)
    assert placed["b"].weight is placed["a"].weight  # type: ignore[index]
    assert tied["a"].weight.dtype is torch.float32
    assert _torch.place(tied, torch.device("cpu"), torch.float32) is tied


@pytest.mark.parametrize("setting", ["disable", "suppress_errors"])
def test_a_compiler_that_would_run_eagerly_is_refused(setting: str) -> None:
    config = types.SimpleNamespace(disable=False, suppress_errors=False)
    _torch.refuse_disabled_compiler(config)
    setattr(config, setting, True)
    with pytest.raises(BenchmarkFailed) as caught:
        _torch.refuse_disabled_compiler(config)
    assert caught.value.category is FailureCategory.FALLBACK_DETECTED


@pytest.mark.slow
def test_a_compiled_session_says_how_long_it_compiled_and_computes_the_same() -> None:
    workload = tiny_workload(compile_mode=CompileMode.COMPILE)
    model = tiny_model(workload)
    for _ in range(2):  # the second session must compile again, not find the first one's graphs
        with CpuBackend().open(CPU, workload, model, 1) as session:
            session.stage([tiny_inputs(0)])
            observed = session.fetch(session.run(0))[OUTPUT]
            facts = session.facts()
        assert abs(observed - reference(model, tiny_inputs(0))).max() < 1e-4
        assert facts.compile_ns is not None
        assert int(facts.properties["compile.graphs"]) >= 1


def test_an_eager_session_has_no_compile_time() -> None:
    workload = tiny_workload()
    with CpuBackend().open(CPU, workload, tiny_model(workload), 1) as session:
        assert session.facts().compile_ns is None


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_a_calibration_says_what_it_measured(precision: Precision) -> None:
    found = CpuBackend().calibrate(CPU, precision, 0.1)
    assert found is not None
    assert found.precision is precision
    assert found.peak_flops_per_s > 1e8
    assert found.dim is not None
    assert found.dim >= 256
    assert found.repeats is not None
    assert found.repeats >= 2
    assert found.source.startswith("measured")


def test_a_cpu_that_computes_wrongly_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: real(a, b) + 1)
    answer = CpuBackend().probe()
    assert answer.status is AvailabilityStatus.PROBE_FAILED
    assert "wrong" in answer.reason


def test_without_torch_the_cpu_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert CpuBackend().probe().status is AvailabilityStatus.NOT_INSTALLED


def test_translated_instructions_make_the_cpu_an_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwbench_mlflow import host

    monkeypatch.setattr(host, "cpu_emulation_reason", lambda: "this process runs under Rosetta translation")
    assert CpuBackend().probe().devices[0].emulation_reason == "this process runs under Rosetta translation"
