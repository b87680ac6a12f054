from __future__ import annotations

import re

import pytest

from hwbench_mlflow.metrics import METRICS, UNIT_IN_NAME, UNITS, MetricSpec, _table

PERCENTILES = {"latency_ms_p50", "latency_ms_p90", "latency_ms_p95", "latency_ms_p99"}


@pytest.mark.parametrize("name", METRICS)
def test_name_is_flat_lower_case(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9_]+", name)


@pytest.mark.parametrize("spec", METRICS.values(), ids=lambda spec: spec.name)
def test_name_carries_its_unit(spec: MetricSpec) -> None:
    assert spec.unit in UNITS
    # As whole words of the name: `_s` must not be found in `_stdev`.
    assert f"_{UNIT_IN_NAME[spec.unit].strip('_')}_" in f"_{spec.name}_"


@pytest.mark.parametrize("spec", METRICS.values(), ids=lambda spec: spec.name)
def test_meaning_is_a_sentence_and_direction_is_known(spec: MetricSpec) -> None:
    assert spec.meaning.endswith(".")
    assert spec.meaning[0].isupper()
    assert spec.better in {"lower", "higher", None}


def test_table_is_indexed_by_the_names_of_its_specs() -> None:
    assert all(name == spec.name for name, spec in METRICS.items())
    assert METRICS.keys() >= PERCENTILES


def test_meanings_are_distinct() -> None:
    assert len({spec.meaning for spec in METRICS.values()}) == len(METRICS)


def test_a_name_given_twice_stops_the_import() -> None:
    one = METRICS["load_ms"]
    with pytest.raises(ValueError, match="load_ms is defined twice"):
        _table((one, one))


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        METRICS["latency_ms_p50"] = METRICS["load_ms"]  # type: ignore[index]


def test_counts_and_context_are_not_ranked() -> None:
    for name in ("sample_count", "warmup_count", "load_before", "flops_per_item_g", "energy_j"):
        assert METRICS[name].better is None
