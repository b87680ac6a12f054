"""A recommendation as text, Markdown and one JSON object. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hwbench_mlflow.decide.recommending import UNITS, Candidate, Entry, Objective, Recommendation
from hwbench_mlflow.reports import words
from hwbench_mlflow.reports.text import cell

SCHEMA_VERSION = 1
SHOWN = 30


def name(one: Candidate) -> str:
    """A device and the configuration on it."""
    work = one.work
    parts = [f"batch {work['batch_size']}", words.size(work), str(work["effective_precision"])]
    parts += [f"{work['threads']} threads"] if work["threads"] is not None else []
    parts += [str(work["scenario"])] if work["scenario"] != "latency" else []
    parts += [f"compiled: {work['compile_mode']}"] if work["compile_mode"] != "eager" else []
    return f"{words.short(str(work['device_name']), 40)} ({work['platform']}): {', '.join(parts)}"


def numbers(one: Candidate) -> str:
    """What was measured, of what is known."""
    said = [] if one.latency_ms is None else [f"{one.latency_ms:.4g} ms"]
    said.append(f"{words.number(one.throughput)} items/s")
    said += [] if one.energy_j_per_item is None else [f"{one.energy_j_per_item:.3g} J/item"]
    said += [] if one.cost is None else [f"{one.cost:.4g} per million items"]
    return ", ".join(said)


def to_text(found: Recommendation, title: str, commands: Sequence[str]) -> Iterator[str]:
    """The ranking, then what stands beside it."""
    yield title
    if not found.entries:
        yield "no verified result to rank"
    for entry in found.entries[:SHOWN]:
        yield from _entry(entry, found.objective)
    if len(found.entries) > SHOWN:
        yield f"  {words.counted(len(found.entries) - SHOWN, 'more device')} not shown"
    if found.similar:
        yield ""
        yield "Similar models, measured; no ranking of the model itself:"
        for entry in found.similar[:SHOWN]:
            yield from _entry(entry, found.objective, model=True)
    if len(found.front) > 1:
        yield ""
        yield f"Pareto front of {', '.join(found.front_of)}: none of these is beaten in everything"
        yield from (f"  {name(one)}: {numbers(one)}" for one in found.front[:SHOWN])
        if len(found.front) > SHOWN:
            yield f"  {len(found.front) - SHOWN} more not shown"
    if found.simulated:
        yield ""
        yield "SIMULATED, not measured on the hardware named, never ranked:"
        for one in found.simulated[:SHOWN]:
            yield f"  SIMULATED {name(one)}: {numbers(one)}; {words.short(str(one.simulation_reason), 200)}"
    if found.left_out:
        yield ""
        yield from (f"left out: {line}" for line in found.left_out[:SHOWN])
    if commands:
        yield ""
        yield "To be surer, or to have a number at all:"
        yield from (f"  {command}" for command in commands)


def _entry(entry: Entry, objective: Objective, *, model: bool = False) -> Iterator[str]:
    one = entry.candidate
    tied = ", may be as good as the first" if entry.tied else ""
    of = f" {words.short(str(one.work['model_name']), 40)} on" if model else ""
    rank = "  -" if model else f"{entry.rank:>3}"
    yield f"{rank}.{of} {name(one)}"
    yield f"      {words.number(entry.value, UNITS[objective])}{tied}; {numbers(one)}"
    cited = ", ".join(run[:8] for run in one.run_ids)
    more = f" and {one.runs - len(one.run_ids)} more" if one.runs > len(one.run_ids) else ""
    yield f"      confidence {entry.confidence}: {one.runs} runs on {len(one.hosts)} hosts ({cited}{more})"
    if one.alone:
        yield f"      {words_alone(one)}"
    if entry.missing:
        yield f"      to be surer: {'; '.join(entry.missing)}"


def words_alone(one: Candidate) -> str:
    """What to say of a number that only one machine has measured."""
    why = one.why_not_confirmable
    return "only one machine has measured it" + (f", and none can confirm it yet: {why}" if why is not None else "")


def to_markdown(found: Recommendation, title: str, commands: Sequence[str]) -> Iterator[str]:
    """The same as Markdown."""
    yield f"### {cell(title)}"
    yield ""
    if found.entries:
        yield "| | device | value | measured | confidence | to be surer | runs |"
        yield "| ---: | --- | ---: | --- | --- | --- | --- |"
    else:
        yield "No verified result to rank."
    for entry in found.entries[:SHOWN]:
        one = entry.candidate
        surer = [*([words_alone(one)] if one.alone else []), *entry.missing]
        yield (
            f"| {entry.rank}{' (tied)' if entry.tied else ''} | {cell(name(one))} | "
            f"{words.number(entry.value, UNITS[found.objective])} | {numbers(one)} | {entry.confidence} | "
            f"{cell('; '.join(surer))} | {', '.join(f'`{run[:8]}`' for run in one.run_ids)} |"
        )
    similar, simulated = [entry.candidate for entry in found.similar], found.simulated
    for heading, lines in (
        ("Similar models", [f"{c.work['model_name']} on {name(c)}: {numbers(c)}" for c in similar]),
        ("SIMULATED, never ranked", [f"SIMULATED {name(c)}: {numbers(c)}; {c.simulation_reason}" for c in simulated]),
        ("Left out", list(found.left_out)),
    ):
        if lines:
            yield ""
            yield f"**{heading}**"
            yield ""
            yield from (f"- {cell(line)}" for line in lines[:SHOWN])
    if commands:
        yield ""
        yield "```"
        yield from (command.replace("`", "") for command in commands)
        yield "```"


def document(found: Recommendation, context: Mapping[str, Any], commands: Sequence[str]) -> dict[str, Any]:
    """The stable object of ``--json``. What is unknown is null."""
    return {
        "schema_version": SCHEMA_VERSION,
        **context,
        "objective": str(found.objective),
        "unit": UNITS[found.objective],
        "ranking": [_document(entry) for entry in found.entries],
        "similar_models": [_document(entry) | {"rank": None} for entry in found.similar],
        "simulated": [_candidate(one) for one in found.simulated],
        "pareto": {"of": [str(o) for o in found.front_of], "front": [_candidate(one) for one in found.front]},
        "left_out": list(found.left_out),
        "commands": list(commands),
    }


def _document(entry: Entry) -> dict[str, Any]:
    return {
        "rank": entry.rank, "value": entry.value, "confidence": str(entry.confidence), "missing": list(entry.missing),
        "tied_with_first": entry.tied, "on_pareto_front": entry.on_front, **_candidate(entry.candidate),
    }  # fmt: skip


def _candidate(one: Candidate) -> dict[str, Any]:
    return {
        "configuration": dict(one.work), "runs": one.runs, "run_ids": list(one.run_ids), "hosts": len(one.hosts),
        "noisy_runs": one.noisy, "samples": one.samples, "newest": f"{one.newest.isoformat()}+00:00",
        "spread": one.spread, "latency_ms": one.latency_ms, "throughput_items_per_s": one.throughput,
        "energy_j_per_item": one.energy_j_per_item, "cost_per_million_items": one.cost,
        "simulation_reason": one.simulation_reason, "only_one_machine": one.alone, "replicated_runs": one.replicated,
        "confirmable_run_id": one.confirmable, "why_not_confirmable": one.why_not_confirmable,
    }  # fmt: skip
