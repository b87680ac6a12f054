from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from hwbench_mlflow import host
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import FailureCategory, Precision, WeightsPolicy, Workload
from hwbench_mlflow.workloads.build import count_on_meta, load
from hwbench_mlflow.workloads.counting import Counts
from hwbench_mlflow.workloads.memory import LIBRARY_BYTES, Room, require_room, weight_copies
from hwbench_mlflow.workloads.resolve import resolve

GIB = 2**30
BILLION = Counts(10**9, 1, 4 * 10**9, 1, {}, 10**8, 1)
HALF = Counts(10**9, 1, 2 * 10**9, 1, {}, 5 * 10**7, 1)


def _needed(error: BenchmarkFailed) -> int:
    return int(str(error).partition("needs ")[2].partition(" bytes")[0])


def test_what_fits_exactly_is_taken_and_one_byte_less_is_refused_with_both_numbers() -> None:
    needed = int((4 * 10**9 + 10**8) * 1.1) + LIBRARY_BYTES
    require_room("m", BILLION, precision=Precision.FP32, room=Room(needed))
    with pytest.raises(BenchmarkFailed, match=rf"needs {needed} bytes .*; {needed - 1} bytes") as caught:
        require_room("m", BILLION, precision=Precision.FP32, room=Room(needed - 1))
    assert caught.value.category is FailureCategory.MODEL_TOO_LARGE
    assert "\n" not in str(caught.value)


def test_what_is_unknown_refuses_nothing() -> None:
    require_room("m", BILLION, precision=Precision.FP32, room=Room(None))
    require_room("m", BILLION, precision=Precision.FP32, room=Room(None, None, own_memory=True))


def test_a_reduced_precision_on_the_hosts_cpu_is_a_second_copy_and_a_converter_holds_three() -> None:
    assert weight_copies(precision=Precision.FP32, own_memory=False, converted=False) == (4,)
    assert weight_copies(precision=Precision.BF16, own_memory=False, converted=False) == (4, 2)
    assert weight_copies(precision=Precision.BF16, own_memory=True, converted=False) == (4,)
    assert weight_copies(precision=Precision.FP32, own_memory=False, converted=True) == (4, 4, 4)


def test_a_device_with_memory_of_its_own_is_asked_for_weights_and_activations_only() -> None:
    fits = int((2 * 10**9 + 5 * 10**7) * 1.1)
    require_room("m", HALF, precision=Precision.BF16, room=Room(10**12, fits, own_memory=True))
    with pytest.raises(BenchmarkFailed, match="bf16 on the device needs"):
        require_room("m", HALF, precision=Precision.BF16, room=Room(10**12, fits - 1, own_memory=True))


def test_the_reference_in_fp32_has_to_fit_on_the_host_even_where_the_device_has_room() -> None:
    with pytest.raises(BenchmarkFailed, match="reference in fp32 on the host") as caught:
        require_room("m", HALF, precision=Precision.BF16, room=Room(4 * GIB, 10**12, own_memory=True))
    # 4 bytes a parameter, and the activations of a fp32 pass.
    assert _needed(caught.value) == int((4 * 10**9 + 10**8) * 1.1) + LIBRARY_BYTES


def test_a_model_of_seven_billion_parameters_is_refused_before_anything_of_it_is_made() -> None:
    before = psutil.Process().memory_info().rss

    def admit(name: str, counts: Counts) -> None:
        require_room(name, counts, precision=Precision.FP32, room=Room(24 * GIB))

    with pytest.raises(BenchmarkFailed, match=r"'llava-1.5-7b' does not fit: .*26\.3 of weights.*24\.0 GiB"):
        load(Workload(model="llava-1.5-7b", weights=WeightsPolicy.RANDOM), admit=admit)
    assert psutil.Process().memory_info().rss - before < GIB


def test_activations_are_the_most_that_is_alive_and_grow_with_the_batch() -> None:
    one, four = (
        count_on_meta(resolve(Workload(model="bert-tiny-test", batch_size=n))).activation_bytes for n in (1, 4)
    )
    # The widest moment is a feed-forward block: its input twice (residual), and its inner result before and after GELU.
    tokens, hidden, inner = 16, 32, 64
    assert 4 * tokens * (hidden + inner) <= one <= 4 * tokens * (4 * hidden + 3 * inner)
    assert 3 * one <= four <= 6 * one


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "max", "memory.current": "5"}, 100 * GIB),
        ({"memory.max": str(8 * GIB), "memory.current": str(3 * GIB)}, 5 * GIB),
        (
            {"memory.max": str(8 * GIB), "memory.current": str(7 * GIB), "memory.stat": f"anon 1\ninactive_file {GIB}"},
            2 * GIB,
        ),
        ({"memory.max": str(GIB), "memory.current": str(2 * GIB)}, 0),
        ({"memory/memory.limit_in_bytes": str(GIB), "memory/memory.usage_in_bytes": "0"}, GIB),
        ({}, 100 * GIB),
    ],
)
def test_a_cgroups_limit_counts_where_it_leaves_less(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 100 * GIB}))
    assert host.available_memory_bytes() == expected
