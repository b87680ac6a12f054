"""Datasheets: what is shipped has a source for each figure, and what is not wholly a datasheet is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwbench_mlflow.datasheet import load, parse, shipped
from hwbench_mlflow.errors import UsageError
from hwbench_mlflow.model import Platform, Precision

SHEETS = shipped()
GOOD = """
schema_version: 1
name: mine
product: My device
vendor: Me
platforms: [cuda]
sources:
  doc: {title: My data sheet, publisher: Me, url: "https://example.org/sheet", read: 2026-11-25}
peak_tflops:
  fp32: {value: 10, source: doc}
memory_bandwidth_gb_per_s: {value: 100, source: doc}
memory_gb: {value: 8, source: doc, note: "half of it is used by others"}
"""


def test_the_devices_that_people_ask_for_are_there() -> None:
    assert {
        "h100-sxm", "h100-pcie", "h200-sxm", "a100-40gb-sxm", "a100-80gb-sxm", "l4", "rtx-4090", "mi300x", "mi250x",
        "m3-max-40core", "snapdragon-x-elite-npu", "arc-a770", "arc-b580",
    } <= SHEETS.keys()  # fmt: skip


@pytest.mark.parametrize("name", SHEETS)
def test_each_figure_has_a_document_and_a_day(name: str) -> None:
    sheet = SHEETS[name].sheet
    assert sheet.name == name
    quantities = [*sheet.peak_tflops.values(), sheet.memory_bandwidth_gb_per_s, sheet.memory_gb]
    for quantity in filter(None, quantities):
        source = sheet.sources[quantity.source]
        assert source.url.startswith("https://")
        assert source.read.year >= 2026
    for precision in SHEETS[name].precisions:
        use = SHEETS[name].use(sheet.platforms[0], precision)
        assert sheet.sources[sheet.peak_tflops[precision.value].source].title in use.peak_flops_per_s.source


def test_peaks_are_dense() -> None:
    """Twice as much is what the vendor prints with sparsity."""
    assert SHEETS["h100-sxm"].sheet.peak_tflops["bf16"].value == 1979 / 2
    assert SHEETS["l4"].sheet.peak_tflops["fp16"].value == 242 / 2
    assert SHEETS["a100-80gb-sxm"].sheet.peak_tflops["bf16"].value == 312


def test_a_card_of_two_dies_is_two_devices() -> None:
    use = SHEETS["mi250x"].use(Platform.ROCM, Precision.FP16)
    assert use.peak_flops_per_s.value == 383e12 / 2
    assert use.memory_bytes is not None
    assert use.memory_bytes.value == 64e9
    assert "divided by 2" in use.peak_flops_per_s.source


def test_another_platform_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="is no rocm device"):
        SHEETS["h100-sxm"].use(Platform.ROCM, Precision.BF16)


def test_a_figure_without_a_source_cannot_be_used() -> None:
    assert SHEETS["m3-max-40core"].precisions == ()
    with pytest.raises(UsageError, match="no sourced peak in fp32"):
        SHEETS["m3-max-40core"].use(Platform.MPS, Precision.FP32)
    with pytest.raises(UsageError, match=r"no sourced peak in bf16.*It can be in: fp32"):
        parse(GOOD.encode(), "mine").use(Platform.CUDA, Precision.BF16)


def test_a_users_own_file_is_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    found = load(str(path))
    assert found.use(Platform.CUDA, Precision.FP32).peak_flops_per_s.value == 10e12
    assert len(found.sha256) == 64


BAD = {
    "an unknown key": (GOOD + "turbo: 9\n", "unknown field `turbo`"),
    "an unknown key inside": (GOOD.replace("value: 10,", "value: 10, boost: 2,"), "unknown field `boost`"),
    "a negative figure": (GOOD.replace("value: 100,", "value: -1,"), "not a positive number"),
    "zero": (GOOD.replace("value: 100,", "value: 0,"), "not a positive number"),
    "infinity": (GOOD.replace("value: 100,", "value: .inf,"), "not a positive number"),
    "not a number": (GOOD.replace("value: 100,", "value: .nan,"), "not a positive number"),
    "text for a number": (GOOD.replace("value: 100,", "value: fast,"), "Expected `float`"),
    "a source that is not there": (GOOD.replace("source: doc}", "source: web}", 1), "not among its sources"),
    "a figure without a source": (GOOD.replace("{value: 10, source: doc}", "{value: 10}"), "missing required field"),
    "an unknown precision": (GOOD.replace("  fp32:", "  fp31:"), "has the precision 'fp31'"),
    "an unknown platform": (GOOD.replace("[cuda]", "[tpu]"), "tpu"),
    "no platform": (GOOD.replace("[cuda]", "[]"), "names no platform"),
    "another version": (GOOD.replace("schema_version: 1", "schema_version: 2"), "schema_version 2"),
    "a key twice": (GOOD + "vendor: You\n", "'vendor' is given twice"),
    "an alias": (GOOD.replace("vendor: Me", "vendor: &me Me").replace("name: mine", "name: *me"), "no aliases"),
    "an object of Python": (GOOD.replace("vendor: Me", "vendor: !!python/name:os.system"), "not a datasheet"),
    "a list": ("- a\n", "not a datasheet"),
    "nothing": ("", "not a datasheet"),
    "no YAML": ("{", "not a datasheet"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_datasheet_is_refused_in_one_line(case: str) -> None:
    text, reason = BAD[case]
    with pytest.raises(UsageError) as refused:
        parse(text.encode(), "mine.yaml")
    assert reason in str(refused.value)
    assert "mine.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_name_or_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no datasheet 'h900'.*h100-sxm"):
        load("h900")
    with pytest.raises(UsageError, match="cannot read"):
        load(str(tmp_path / "none.yaml"))
    (tmp_path / "big.yaml").write_text("#" * 100_000)
    with pytest.raises(UsageError, match="larger than any"):
        load(str(tmp_path / "big.yaml"))
