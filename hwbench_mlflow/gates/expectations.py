"""Expectations that Great Expectations does not have: what must hold between the columns of one row.

Each is a metric (a function of the columns' frame to a Boolean a row) and the expectation that is named after it.
A NULL is unknown, not wrong, unless the expectation is about its being there.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd
from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import MulticolumnMapExpectation
from great_expectations.expectations.metrics.map_metric_provider.multicolumn_condition_partial import (
    multicolumn_condition_partial,
)
from great_expectations.expectations.metrics.map_metric_provider.multicolumn_map_metric_provider import (
    MulticolumnMapMetricProvider,
)

_DOMAIN = ("batch_id", "table", "column_list", "row_condition", "condition_parser", "ignore_row_if")

TOLERANCE = 1e-6
"""Relative: a mean and a throughput are the same sum, divided in another order."""


class _Rowwise(MulticolumnMapExpectation):
    """Every row is looked at: none is left out for holding a NULL."""

    ignore_row_if: str = "never"  # type: ignore[assignment]  # the base allows two more, which would skip rows
    args_keys: ClassVar[tuple[str, ...]] = ("column_list",)
    success_keys: ClassVar[tuple[str, ...]] = ("mostly", "ignore_row_if")


def _ascending(frame: pd.DataFrame) -> pd.Series[bool]:
    sound = pd.Series(True, index=frame.index)
    highest = pd.Series(float("-inf"), index=frame.index)
    for column in frame.columns:
        values = frame[column].astype(float)
        sound &= values.isna() | (values >= highest)
        highest = highest.where(values.isna(), values)
    return sound


def _together(frame: pd.DataFrame) -> pd.Series[bool]:
    missing = frame.isna().sum(axis=1)
    return (missing == 0) | (missing == len(frame.columns))


def _simulation_said(frame: pd.DataFrame) -> pd.Series[bool]:
    simulated, reason, verdict = (frame[c] for c in frame.columns)
    said = reason.fillna("").astype(str).str.strip() != ""
    flag = simulated.map({True: True, False: False}).astype("boolean")
    return flag.notna() & (flag.fillna(False).astype(bool) == said) & (said | (verdict != "simulated"))


def _throughput(frame: pd.DataFrame) -> pd.Series[bool]:
    *numbers, scenario, query = (frame[c] for c in frame.columns)
    throughput, batch, mean_ms = (values.astype(float) for values in numbers)
    items = batch.where(scenario != "multistream", query.astype(float))
    expected = items * 1e3 / mean_ms
    # A server's items wait for each other: what it completes follows from its arrivals.
    return mean_ms.isna() | (scenario == "server") | ((throughput - expected).abs() <= TOLERANCE * expected)


def _scenario_asked(frame: pd.DataFrame) -> pd.Series[bool]:
    scenario, bound, percentile, query, offered, achieved, late, queue, service, rate, batch = (
        frame[c] for c in frame.columns
    )
    server, multistream = scenario == "server", scenario == "multistream"
    sound = (query.notna() == multistream) & (~multistream | (query.astype(float) % batch.astype(float) == 0))
    for column in (bound, percentile, offered, achieved, late, queue, service):
        sound &= column.notna() == server
    return sound & (rate.isna() | (server & (rate.astype(float) == offered.astype(float))))


def _verified_has_evidence(frame: pd.DataFrame) -> pd.Series[bool]:
    verdict, signature, status, available, *files = (frame[c] for c in frame.columns)
    held = (signature == "trusted") & (status == "FINISHED") & available.map({True: True}).notna()
    for column in files:
        held &= column.notna()
    return (verdict != "verified") | held


def _device_as_asked(frame: pd.DataFrame) -> pd.Series[bool]:
    requested, granted, observed = (frame[c] for c in frame.columns)
    return (requested.isna() | (requested == granted)) & (observed == granted)


def _verified_probe(frame: pd.DataFrame) -> pd.Series[bool]:
    verified, status, device, operation = (frame[c] for c in frame.columns)
    flag = verified.map({True: True, False: False})
    sound = (status == "AVAILABLE") & device.notna() & operation.notna()
    return flag.notna() & ((flag != True) | sound)  # noqa: E712 -- elementwise


def _metric(name: str, rule: Any) -> None:
    """Register a metric. Great Expectations registers a provider when its class is made."""

    @multicolumn_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(cls: type, column_list: pd.DataFrame, **_: object) -> Any:
        del cls
        return rule(column_list)

    fields = {"condition_metric_name": name, "condition_domain_keys": _DOMAIN, "condition_value_keys": ()}
    type(f"{name}_metric", (MulticolumnMapMetricProvider,), {**fields, "_pandas": _pandas})


_metric("hwbench.ascending", _ascending)
_metric("hwbench.together", _together)
_metric("hwbench.simulation_said", _simulation_said)
_metric("hwbench.throughput", _throughput)
_metric("hwbench.scenario_asked", _scenario_asked)
_metric("hwbench.verified_has_evidence", _verified_has_evidence)
_metric("hwbench.device_as_asked", _device_as_asked)
_metric("hwbench.verified_probe", _verified_probe)


class ExpectColumnValuesToAscendWithinRows(_Rowwise):
    """From the first column to the last, values never fall. A NULL is passed over."""

    map_metric = "hwbench.ascending"


class ExpectColumnsToBeKnownTogether(_Rowwise):
    """A row has all of the columns or none."""

    map_metric = "hwbench.together"


class ExpectSimulationToBeSaid(_Rowwise):
    """``[is_simulated, simulation_reason, verdict]``: simulated exactly where there is a reason; the verdict knows."""

    map_metric = "hwbench.simulation_said"


class ExpectThroughputToFollowFromLatency(_Rowwise):
    """``[throughput_items_per_s, batch_size, latency_ms_mean, scenario, query_size]``: items a second are those of one
    inference (multistream: of one query) over the mean. A server's are those that arrived."""

    map_metric = "hwbench.throughput"


class ExpectScenarioToSayWhatWasAsked(_Rowwise):
    """``[scenario, latency_bound_ms, latency_percentile, query_size, offered_rate_per_s, achieved_rate_per_s,
    late_count, queue_ms_mean, service_ms_p50, server_rate_per_s, batch_size]``: each is known in its scenario only, and
    a rate is claimed only where it was offered."""

    map_metric = "hwbench.scenario_asked"


class ExpectVerifiedRowsToHoldEvidence(_Rowwise):
    """``[verdict, signature_state, run_status, availability_verified, ...]``: the rest is there in verified rows."""

    map_metric = "hwbench.verified_has_evidence"


class ExpectDeviceToBeTheOneAskedFor(_Rowwise):
    """``[requested_device, device_id, observed_device]``: what ran is what was granted, and that was asked for."""

    map_metric = "hwbench.device_as_asked"


class ExpectVerifiedProbesToHaveComputed(_Rowwise):
    """``[is_verified, status, device_id, check_operation]``: no device is verified without an operation on it."""

    map_metric = "hwbench.verified_probe"


OWN = (
    ExpectColumnValuesToAscendWithinRows, ExpectColumnsToBeKnownTogether, ExpectSimulationToBeSaid,
    ExpectThroughputToFollowFromLatency, ExpectVerifiedRowsToHoldEvidence, ExpectDeviceToBeTheOneAskedFor,
    ExpectVerifiedProbesToHaveComputed, ExpectScenarioToSayWhatWasAsked,
)  # fmt: skip
