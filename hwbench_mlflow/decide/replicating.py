"""Whether one measurement confirms another: the highest level of trust, from the evidence of both. Pure.

A result is *replicated* when another machine of the same kind gives the same within 2%. A signature proves who and
unchanged; who controls one machine can forge all that it says, and only a second one that agrees answers that. So of
the two results

* both are verified, ranked (no smoke test) and stable, and neither is simulated;
* the configuration is the same, to the digest of model and weights, and so is the device's product (:data:`SAME`);
* host and signing key are others, *and* neither shares a boot or a device's UUID with the other: two containers on one
  machine may have two machine ids, but they have one kernel;
* the larger median latency is at most 1.02 times the smaller, and each median is known to 2% itself: half its 95%
  interval (of order statistics, without a distribution) is at most 2% of it. A median that is not known so well
  confirms nothing, whatever it is. Overlap of the intervals is not asked for: two machines of a kind do differ a
  little, and the better they are measured the less their intervals overlap.

Where several samples overlapped (scenario offline) there is no median of latency, and so no replication. The tag
``hwbench.replicates`` of a run says which pair somebody had in mind, and nothing else: it is not looked at here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MARGIN = 0.02
"""Of the medians, and of half the 95% interval of each."""

SAME = (
    "model_id", "weights", "weights_sha256", "platform", "device_name", "backend", "requested_precision",
    "effective_precision", "batch_size", "sequence_length", "image_size", "audio_seconds", "phase", "output_tokens",
    "kv_cache", "scenario", "latency_bound_ms", "latency_percentile", "query_size", "profile", "compile_mode",
    "threads",
)  # fmt: skip
"""Columns of ``performance_results`` that make a configuration and the kind of device that it ran on."""

APART = ("host_id", "key_id", "boot_id")
"""Columns that are known of both and differ: that they are two machines, with two owners of their keys."""

SOUND = (
    "verdict", "is_simulated", "ranked", "stable", "signature_state", "device_uuid", "latency_ms_p50",
    "latency_ms_p50_ci95_low", "latency_ms_p50_ci95_high",
)  # fmt: skip
"""What else is looked at."""

Result = Mapping[str, Any]
"""A row of ``performance_results``, or as much of one as :data:`SAME`, :data:`APART` and :data:`SOUND` name."""


def unsound(one: Result) -> list[str]:
    """Why a result can neither confirm anything nor be confirmed; empty if it can."""
    said = []
    if one["verdict"] != "verified" or one["is_simulated"] or one["signature_state"] != "trusted":
        said.append(f"it is not verified: {one['verdict']}")
    if not one["ranked"]:
        said.append("it is a smoke test")
    if not one["stable"]:
        said.append("it is noisy")
    middle, low, high = (one[f"latency_ms_p50{end}"] for end in ("", "_ci95_low", "_ci95_high"))
    if middle is None or low is None or high is None:
        said.append("its median latency has no interval")
    elif (high - low) / 2 > MARGIN * middle:
        said.append(f"its median latency is known to {(high - low) / 2 / middle:.1%} only, not to {MARGIN:.0%}")
    return said


def ratio(one: Result, other: Result) -> float | None:
    """The median latency of one over the other's; None where one has none."""
    a, b = one["latency_ms_p50"], other["latency_ms_p50"]
    return None if a is None or b is None else float(a / b)


def objections(one: Result, other: Result) -> list[str]:
    """Why two results do not confirm each other; empty if they do."""
    said = [f"{which}: {reason}" for which, it in (("one", one), ("other", other)) for reason in unsound(it)]
    for name in SAME:
        if one[name] != other[name]:
            said.append(f"{name} differs: {one[name]} and {other[name]}")
    for name in APART:
        if one[name] is None or other[name] is None:
            said.append(f"{name} is not known of both")
        elif one[name] == other[name]:
            said.append(f"{name} is the same: it is no other machine, or no other key")
    if one["device_uuid"] is not None and one["device_uuid"] == other["device_uuid"]:
        said.append("it is the very same device")
    found = ratio(one, other)
    if found is not None and max(found, 1 / found) > 1 + MARGIN:
        said.append(f"the medians differ by {max(found, 1 / found) - 1:.1%}, more than {MARGIN:.0%}")
    return said
