"""How a row reads: labels, sizes, numbers with their unit, and why a number is not there. Pure; escapes nothing."""

from __future__ import annotations

import unicodedata

from hwbench_mlflow.summary import Row

ABSENT = "—"

MEDIAN_SAMPLES = 11
_WRITTEN = frozenset({"ttft_ms_p50", "tpot_ms_p50", "tokens_per_s", "real_time_factor"})
PERCENTILE_SAMPLES = {"p90": 64, "p95": 130, "p99": 662}
"""Samples that MLPerf's binomial rule asks for at 99% confidence; see :mod:`hwbench_mlflow.stats`."""


SERVER_ONLY = frozenset({"offered_rate_per_s", "achieved_rate_per_s", "late_count", "queue_ms_mean", "service_ms_p50"})


def number(value: float | None, unit: str = "") -> str:
    """Four significant digits and the unit; a dash where it is unknown."""
    if value is None:
        return ABSENT
    text = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return f"{text} {unit}".rstrip()


def interval(row: Row) -> str | None:
    """The median's 95% interval; None where it is unknown."""
    low, high = row["latency_ms_p50_ci95_low"], row["latency_ms_p50_ci95_high"]
    return None if low is None or high is None else f"{low:.4g} to {high:.4g}"


def size(row: Row) -> str:
    """The size of one input."""
    parts = []
    if row["sequence_length"] is not None:
        parts.append(f"{row['sequence_length']} tokens")
    if row["image_size"] is not None:
        parts.append(f"{row['image_size']}×{row['image_size']} pixels")
    if row.get("audio_seconds") is not None:  # estimates have none
        parts.append(f"{row['audio_seconds']:g} s of audio")
    return ", ".join(parts) or ABSENT


def phase(row: Row) -> str | None:
    """What one inference of a model that writes was; None for a forward pass that decodes nothing."""
    if row["phase"] == "forward":
        return None if row["output_tokens"] is None else f"{row['output_tokens']} decoder tokens"
    written = "" if row["output_tokens"] is None else f" of {row['output_tokens']} tokens"
    return f"{row['phase']}{written} {'with' if row['kv_cache'] else 'without'} KV cache"


def writes(row: Row) -> bool:
    """Whether the row has times of tokens, or of audio."""
    return row["phase"] != "forward" or row["real_time_factor"] is not None


def precision(row: Row) -> str:
    """What it ran in; what was asked for too, where that was something else."""
    asked, ran = row["requested_precision"], row["effective_precision"]
    return str(ran) if asked == ran else f"{ran} (asked for {asked})"


def workload(row: Row) -> str:
    """What was run, without the model's name."""
    parts = [f"batch {row['batch_size']}", size(row), precision(row)]
    if (what := phase(row)) is not None:
        parts.insert(2, what)
    if row["scenario"] != "latency":
        parts.append(scenario(row))
    if row["compile_mode"] not in {None, "eager"}:
        parts.append(f"compiled: {row['compile_mode']}")
    if row["threads"] is not None:
        parts.append(f"{row['threads']} thread{'' if row['threads'] == 1 else 's'}")
    return ", ".join(parts)


def scenario(row: Row) -> str:
    """What was asked in it, and of a server what it held."""
    if row["scenario"] == "multistream":
        return f"multistream of {row['query_size']}"
    if row["scenario"] != "server":
        return str(row["scenario"])
    return f"server, {row['latency_bound_ms']:g} ms at p{row['latency_percentile']}"


def rate(row: Row) -> str | None:
    """What a server's rate came to; None for another scenario."""
    if row["scenario"] != "server":
        return None
    if row["server_rate_per_s"] is not None:
        return f"held at {row['server_rate_per_s']:.4g} queries/s"
    return f"not shown to hold at {row['offered_rate_per_s']:.4g} queries/s: no rate is claimed"


def device(row: Row) -> str:
    """The device's name and the platform that drove it."""
    return f"{row['device_name']} ({row['platform']})"


def label(row: Row, *, model: bool = True) -> str:
    """One line for an axis."""
    words = f"{row['platform']}: {short(row['device_name'], 28)}, {workload(row)}"
    return f"{short(row['model_name'], 28)} on {words}" if model else words


def short(text: str, length: int) -> str:
    """At most ``length`` characters, for a figure; tables have the whole. Nothing that turns the writing round."""
    clean = "".join(c if unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if len(clean) <= length else f"{clean[: length - 1]}…"


def why_absent(row: Row, column: str) -> str:
    """Why a percentile, a memory or an energy is not there."""
    why = footnote(row, column)
    return f"{why}, this has {row['sample_count']}" if why.startswith(_FEW) else why


_FEW = "too few samples: "


def footnote(row: Row, column: str) -> str:
    """The same, in words that many rows share."""
    kind, count = column.rpartition("_")[2], row["sample_count"] or 0
    if kind in PERCENTILE_SAMPLES and count < PERCENTILE_SAMPLES[kind]:
        return f"{_FEW}{kind} needs {PERCENTILE_SAMPLES[kind]}"
    if column in _WRITTEN:
        # A generation whose median is absent has too few samples for one; else the phase has no such time.
        few = kind == "p50" and row["phase"] != "forward" and count < MEDIAN_SAMPLES
        return f"{_FEW}a median needs {MEDIAN_SAMPLES}" if few else "this phase, or this model, has none"
    return "not measured"


def counted(count: int, noun: str) -> str:
    """A number of things: "1 result", "2 results"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def marks(row: Row) -> list[str]:
    """What a reader must know of a number before using it; empty if there is nothing."""
    found = []
    if row["is_simulated"]:
        found.append(f"SIMULATED: {row['simulation_reason']}")
    if not row["stable"]:
        found.append(f"noisy: {'; '.join(row['noise_reasons'] or ()) or 'not known to be stable'}")
    if not row["ranked"]:
        found.append(f"profile {row['profile']}: not ranked")
    if (found_rate := rate(row)) is not None:
        found.append(found_rate)
    if row["weights"] == "random":
        found.append("random weights")
    if row["trust_level"] == "replicated":
        found.append("replicated: another machine of the same kind, with another key, agrees within 2%")
    return found


def provenance(row: Row) -> list[tuple[str, str]]:
    """Where a number comes from, and how to check it."""
    names = {
        "run": "run_id", "result": "result_id", "measured": "created_at", "verdict": "verdict",
        "trust": "trust_level", "gate": "gate_id",
        "signed by": "key_name", "key": "key_id", "signature": "signature_state", "result.json sha256": "result_sha256",
        "samples.json sha256": "samples_sha256", "attestation sha256": "attestation_sha256",
        "binding sha256": "binding_sha256", "probe": "probe_id", "availability": "availability_status",
        "device": "device_id", "device UUID": "device_uuid", "driver": "device_driver", "host": "hostname",
        "boot": "boot_id", "CPU": "cpu_name", "OS": "os", "backend": "backend", "python": "python",
        "git commit": "git_commit", "git dirty": "git_dirty", "hwbench": "hwbench_version",
        "offered queries/s": "offered_rate_per_s", "achieved queries/s": "achieved_rate_per_s",
        "late queries": "late_count", "mean wait, ms": "queue_ms_mean", "median service, ms": "service_ms_p50",
        "samples": "sample_count", "workers": "worker_count", "results like it": "result_count",
    }  # fmt: skip
    if row["scenario"] != "server":
        names = {name: column for name, column in names.items() if column not in SERVER_ONLY}
    lines = [(name, ABSENT if row[column] is None else str(row[column])) for name, column in names.items()]
    if row["energy_j"] is not None:
        lines.append(("energy", f"{number(row['energy_j'], 'J')} by {row['energy_method']}: {row['energy_scope']}"))
    lines += [("note", mark) for mark in marks(row)]
    lines += [("warning", str(text)) for text in row["warnings"] or ()]
    return [*lines, ("check it", f"hwbench verify {row['run_id']}")]
