"""The roofline through torch: which device it addresses, what it times, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hwbench_mlflow.backends import _roofline, _torch
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import Device, FailureCategory, Platform, Precision

torch = pytest.importorskip("torch")
CPU = torch.device("cpu")


def device(platform: Platform, device_id: str) -> Device:
    return Device(platform=platform, id=device_id, name="x")


@pytest.mark.parametrize(
    ("platform", "device_id", "expected"),
    [
        (Platform.CPU, "cpu", "cpu"), (Platform.OPENVINO, "CPU", "cpu"), (Platform.WEBNN, "cpu", "cpu"),
        (Platform.CUDA, "cuda:1", "cuda:1"), (Platform.ROCM, "rocm:2", "cuda:2"), (Platform.MPS, "mps", "mps"),
    ],
)  # fmt: skip
def test_each_platform_has_its_name_in_torch(platform: Platform, device_id: str, expected: str) -> None:
    """cuda, rocm and mps take this path; it was never run on real hardware by us."""
    assert str(_roofline.torch_device(device(platform, device_id))) == expected


@pytest.mark.parametrize(
    ("platform", "device_id"), [(Platform.OPENVINO, "GPU.0"), (Platform.QNN, "0"), (Platform.WEBGPU, "adapter")]
)
def test_what_torch_cannot_address_is_refused_and_not_measured_elsewhere(platform: Platform, device_id: str) -> None:
    with pytest.raises(BenchmarkFailed, match="torch cannot address") as refused:
        _roofline.torch_device(device(platform, device_id))
    assert refused.value.category is FailureCategory.UNSUPPORTED_OPERATOR


def test_products_are_kept_raw() -> None:
    found, skipped = _roofline.measure_products(CPU, (Precision.FP32,), 0.01)
    assert skipped == {}
    [products] = found
    assert len(products.dims) == len(products.took_ns) >= 2
    assert min(products.took_ns) > 0


def test_streams_compute_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_roofline, "ARRAY_BYTES", 1 << 20)
    copy, triad = _roofline.measure_streams(CPU, None, 0.001)
    assert (copy.kernel, triad.kernel) == ("copy", "triad")
    assert copy.array_bytes == 1 << 20
    assert len(triad.took_ns) >= _roofline.MIN_PASSES


def test_a_stream_with_a_wrong_result_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_roofline, "ARRAY_BYTES", 1 << 12)
    monkeypatch.setattr(torch, "add", lambda *_args, **_named: None)
    with pytest.raises(BenchmarkFailed, match="gave a wrong result"):
        _roofline.measure_streams(CPU, None, 0.001)


def test_arrays_are_past_the_cache_and_within_the_memory() -> None:
    gib = 1 << 30
    assert _roofline.array_bytes(None, 64 * gib) == _roofline.ARRAY_BYTES
    assert _roofline.array_bytes(256 << 20, 64 * gib) == 1 * gib
    assert _roofline.array_bytes(256 << 20, 4 * gib) == gib // 2


def test_a_precision_that_a_device_lacks_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    real = _torch.timed_products

    def lacking(where: object, dtype: object, seconds: float) -> list[tuple[int, int]]:
        if dtype is torch.bfloat16:
            raise RuntimeError("MPS does not support bfloat16 here")
        return real(where, dtype, seconds)  # type: ignore[arg-type]

    monkeypatch.setattr(_torch, "timed_products", lacking)
    found, skipped = _roofline.measure_products(CPU, (Precision.FP32, Precision.BF16), 0.01)
    assert [p.precision for p in found] == [Precision.FP32]
    assert "does not support bfloat16" in skipped["bf16"]


def test_fp32_and_running_out_of_memory_are_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[tuple[int, int]]:
        raise RuntimeError("the driver went away")

    monkeypatch.setattr(_torch, "timed_products", broken)
    with pytest.raises(RuntimeError, match="went away"):
        _roofline.measure_products(CPU, (Precision.FP32,), 0.01)

    def full(*_: object) -> list[tuple[int, int]]:
        raise BenchmarkFailed("out of memory", FailureCategory.OUT_OF_MEMORY)

    monkeypatch.setattr(_torch, "timed_products", full)
    with pytest.raises(BenchmarkFailed, match="out of memory"):
        _roofline.measure_products(CPU, (Precision.BF16,), 0.01)


def test_a_gpus_cache_and_memory_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded reply: H100 SXM, as torch 2.13 gives it."""
    properties = SimpleNamespace(L2_cache_size=52_428_800)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (84_000_000_000, 85_000_000_000))
    where = torch.device("cuda", 0)
    assert _roofline.cache_bytes(where) == 52_428_800
    assert _roofline.free_bytes(where) == 84_000_000_000
    assert _roofline.cache_bytes(torch.device("mps")) is None
