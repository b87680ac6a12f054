"""What came of a comparison: a table for a terminal, Markdown for a pull request, one JSON object. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hwbench_mlflow.decide.alarms import Alarms, Rate
from hwbench_mlflow.decide.comparing import Check, Comparison, Outcome, Side
from hwbench_mlflow.metrics import METRICS
from hwbench_mlflow.reports import words
from hwbench_mlflow.reports.text import cell

SCHEMA_VERSION = 1
MARKER = "<!-- hwbench compare -->"
"""The first line of the Markdown: by it, a workflow finds the comment that it wrote before."""

MAX_MARKDOWN_ROWS = 100
"""A comment on GitHub takes 65,536 characters."""

_WORDS = {
    "batch_size": "batch {}", "sequence_length": "{} tokens", "image_size": "{}x{} pixels", "requested_precision": "{}",
    "threads": "{} threads", "latency_bound_ms": "within {:g} ms", "latency_percentile": "at p{}",
    "query_size": "queries of {}", "audio_seconds": "{:g} s of audio", "output_tokens": "{} tokens written",
}  # fmt: skip


def label(work: Mapping[str, Any]) -> str:
    """A configuration in one line, plain: what is None is left out."""
    device = None if work["device_name"] is None else words.short(str(work["device_name"]), 40)
    where = " ".join(str(part) for part in (device, work["platform"] and f"({work['platform']})") if part)
    parts = [words.short(str(work["model_name"]), 60)] if work["model_name"] is not None else []
    parts += [f"on {where}"] if where else []
    head = " ".join(parts)
    rest = [text.format(work[name]) for name, text in _WORDS.items() if work.get(name) is not None]
    rest += [str(work["phase"])] if work.get("phase") not in {None, "forward"} else []
    rest += ["no KV cache"] if work.get("kv_cache") is False else []
    rest += [str(work["scenario"])] if work["scenario"] not in {None, "latency"} else []
    rest += [f"compiled: {work['compile_mode']}"] if work["compile_mode"] not in {None, "eager"} else []
    rest += [f"profile {work['profile']}"] if work["profile"] is not None else []
    return ": ".join(part for part in (head, ", ".join(rest)) if part)


def to_text(found: Sequence[Comparison], head: Sequence[str], tail: Sequence[str]) -> Iterator[str]:
    """The table, a line at a time; the reasons under their row."""
    yield from head
    yield ""
    rows = [_cells(one) for one in found]
    titles = ["A (runs)", "B (runs)", "B/A", "95% interval", "p", "A12", "verdict"]
    widths = [max(len(row[n]) for row in [titles, *rows]) for n in range(len(titles))]
    group: tuple[str, str] | None = None
    for one, cells in zip(found, rows, strict=True):
        name = (label(one.pair.work), one.pair.metric)
        if name != group:
            group = name
            yield f"[{label(one.pair.work)}: {one.pair.metric}, {_way(one)}]"
            yield "  " + "  ".join(t.rjust(w) for t, w in zip(titles, widths, strict=True))
        yield "  " + "  ".join(c.rjust(w) for c, w in zip(cells, widths, strict=True)).rstrip()
        yield from (f"      {words.short(reason, 400)}" for reason in one.reasons)
        yield from (f"      note: {words.short(note, 400)}" for note in one.notes)
    yield ""
    yield counts(found)
    yield from tail


def counts(found: Sequence[Comparison]) -> str:
    """How many of each outcome."""
    tally = Counter(one.outcome for one in found)
    return ", ".join(f"{tally[outcome]} {outcome}" for outcome in Outcome if tally[outcome]) or "nothing to compare"


def _way(one: Comparison) -> str:
    spec = METRICS[one.pair.metric]
    return f"{spec.unit}, {'less' if spec.better == 'lower' else 'more'} is better"


def _cells(one: Comparison) -> list[str]:
    return [
        _middle(one.pair.a),
        _middle(one.pair.b),
        words.ABSENT if one.ratio is None else f"{one.ratio:.3f}",
        words.ABSENT if one.low is None or one.high is None else f"{one.low:.3f} to {one.high:.3f}",
        words.ABSENT if one.p_adjusted is None else f"{one.p_adjusted:.2g}",
        words.ABSENT if one.a12 is None else f"{one.a12:.2f}",
        str(one.outcome),
    ]


def median(side: Side) -> float | None:
    """The median of the runs; None where none has a value."""
    import numpy as np

    return float(np.median(np.asarray(side.values, dtype=float))) if len(side.values) else None


def _middle(side: Side) -> str:
    return f"{words.number(median(side))} ({side.count})"


def to_markdown(found: Sequence[Comparison], head: Sequence[str], tail: Sequence[str]) -> Iterator[str]:
    """A comment for a pull request: what regressed first, then the rest, then which runs it rests on."""
    yield MARKER
    yield f"### hwbench: {counts(found)}"
    yield ""
    for line in head:
        yield f"{cell(line)}  "
    yield ""
    order = [Outcome.SLOWER, Outcome.AMBIGUOUS, Outcome.FASTER, Outcome.SAME]
    ranked = sorted(found, key=lambda one: order.index(one.outcome))
    if ranked:
        yield "| verdict | configuration | A (runs) | B (runs) | B/A (95% interval) | p | why |"
        yield "| --- | --- | ---: | ---: | ---: | ---: | --- |"
    for one in ranked[:MAX_MARKDOWN_ROWS]:
        cells = _cells(one)
        ratio = cells[2] if cells[3] == words.ABSENT else f"{cells[2]} ({cells[3]})"
        unit = METRICS[one.pair.metric].unit
        why = cell(words.short("; ".join([*one.reasons, *one.notes]), 400))
        yield (
            f"| **{one.outcome}** | {cell(label(one.pair.work))} | {cells[0]} {unit} | {cells[1]} {unit} | {ratio} | "
            f"{cells[4]} | {why} |"
        )
    if len(ranked) > MAX_MARKDOWN_ROWS:
        yield ""
        yield f"{words.counted(len(ranked) - MAX_MARKDOWN_ROWS, 'more configuration')} not shown."
    yield ""
    for line in tail:
        yield f"{cell(line)}  "
    yield ""
    yield "<details><summary>Runs, and how this was decided</summary>"
    yield ""
    for one in ranked[:MAX_MARKDOWN_ROWS]:
        yield f"- {cell(label(one.pair.work))}: {cell(one.basis or 'no interval')}"
        for name, side in (("A", one.pair.a), ("B", one.pair.b)):
            shown = [f"`{run[:8]}`" for run in side.run_ids[:8]]
            more = f" and {side.count - len(shown)} more" if side.count > len(shown) else ""
            yield f"  - {name}: {', '.join(shown)}{more}"
    yield ""
    yield "Only verified, published results. p is after Holm's correction for all rows; check a run with"
    yield "`hwbench verify RUN_ID`."
    yield "</details>"


def document(
    found: Sequence[Comparison], context: Mapping[str, Any], check: Check | None, *, ambiguous_passes: bool
) -> dict[str, Any]:
    """The stable object of ``--json``. Ratios are B over A in the metric's unit; what is unknown is null."""
    return {
        "schema_version": SCHEMA_VERSION,
        **context,
        "counts": {str(outcome): sum(one.outcome is outcome for one in found) for outcome in Outcome},
        "check": None
        if check is None
        else {
            "threshold": check.threshold,
            "passed": check.passed(ambiguous_passes=ambiguous_passes),
            "regressed": [label(one.pair.work) for one in check.regressed],
            "undecided": [label(one.pair.work) for one in check.undecided],
        },
        "comparisons": [_entry(one) for one in found],
    }


def _entry(one: Comparison) -> dict[str, Any]:
    return {
        "configuration": dict(one.pair.work),
        "metric": one.pair.metric,
        "unit": METRICS[one.pair.metric].unit,
        "verdict": str(one.outcome),
        "reasons": list(one.reasons),
        "notes": list(one.notes),
        "ratio": one.ratio,
        "ratio_low": one.low,
        "ratio_high": one.high,
        "interval": one.basis,
        "p": one.p,
        "p_adjusted": one.p_adjusted,
        "test": one.test,
        "a12": one.a12,
        "cliffs_delta": one.cliffs_delta,
        **{
            name: {
                "median": median(side), "runs": side.count, "noisy": side.noisy, "throttled": side.throttled,
                "run_ids": list(side.run_ids),
            }
            for name, side in (("a", one.pair.a), ("b", one.pair.b))
        },
    }  # fmt: skip


def alarms_text(found: Alarms, margin: float) -> Iterator[str]:
    """The false-alarm rates, and how much runs of one thing differ."""
    yield (
        f"A/A: {found.runs} runs of {found.histories} configurations against themselves, margin {margin:.3g}"
        f" ({found.short} configurations have under 8 runs)"
    )
    for name, rate, of in (
        ("neighbours", found.neighbours, "4 runs against the next 4"),
        ("random splits", found.splits, "halves; the interval is of the draws, over these runs"),
    ):
        if rate is None:
            continue
        low, high = rate.interval
        yield (
            f"  {name:<14} {rate.alarms} false alarms in {rate.comparisons}: {rate.alarms / rate.comparisons:.1%} "
            f"(95% interval {low:.1%} to {high:.1%}); {rate.same / rate.comparisons:.1%} SAME; {of}"
        )
    yield "  spread of single runs (standard deviation of logarithms):"
    for pair, spread in found.spreads[:20]:
        yield f"    {spread:7.2%}  {pair.a.count} runs  {label(pair.work)}"
    if len(found.spreads) > 20:
        yield f"    and {len(found.spreads) - 20} more configurations"


def alarms_document(found: Alarms, margin: float) -> dict[str, Any]:
    """The stable object of ``--aa --json``."""

    def rate(of: Rate | None) -> dict[str, Any] | None:
        if of is None:
            return None
        low, high = of.interval
        return {
            "false_alarms": of.alarms, "same": of.same, "comparisons": of.comparisons,
            "rate": of.alarms / of.comparisons, "low": low, "high": high,
        }  # fmt: skip

    return {
        "schema_version": SCHEMA_VERSION,
        "margin": margin,
        "configurations": found.histories,
        "configurations_too_short": found.short,
        "runs": found.runs,
        "neighbours": rate(found.neighbours),
        "random_splits": rate(found.splits),
        "spreads": [
            {"configuration": dict(pair.work), "metric": pair.metric, "runs": pair.a.count, "spread": spread}
            for pair, spread in found.spreads
        ],
    }
