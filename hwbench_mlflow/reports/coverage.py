"""A table of coverage: text, Markdown, JSON, and the matrix that ``hwbench batch`` takes. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hwbench_mlflow.decide.covering import Cell, Next, State
from hwbench_mlflow.reports import words
from hwbench_mlflow.reports.text import cell

SCHEMA_VERSION = 1
SHOWN_NEXT = 15
SHOWN_MODELS = 200


def headline(cells: Sequence[Cell]) -> str:
    """How many cells are in each state."""
    tally = Counter(c.state for c in cells)
    return ", ".join(f"{tally[state]} {state}" for state in State if tally[state])


def _grid(cells: Sequence[Cell]) -> tuple[list[str], list[tuple[str, str]], dict[tuple[str, str, str], Cell]]:
    rows = list(dict.fromkeys((c.model, c.precision) for c in cells))
    platforms = list(dict.fromkeys(c.platform for c in cells))
    return platforms, rows, {(c.model, c.platform, c.precision): c for c in cells}


def _said(one: Cell | None) -> str:
    if one is None:
        return words.ABSENT
    if one.state in {State.VERIFIED, State.NOISY, State.STALE}:
        return f"{one.state} ({one.runs})"
    if one.state is State.FAILED and one.reason:
        return f"failed: {one.reason.partition(':')[0]}"
    return str(one.state)


def to_text(cells: Sequence[Cell], following: Sequence[Next]) -> Iterator[str]:
    """Models and precisions down, platforms across; then why, then what to run."""
    platforms, rows, by_key = _grid(cells)
    titles = ["MODEL", "PRECISION", *platforms]
    body = [
        [words.short(model, 40), precision, *[_said(by_key.get((model, p, precision))) for p in platforms]]
        for model, precision in rows[:SHOWN_MODELS]
    ]
    widths = [max(len(row[n]) for row in [titles, *body]) for n in range(len(titles))]
    for row in [titles, *body]:
        yield "  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip()
    if len(rows) > SHOWN_MODELS:
        yield f"{words.counted(len(rows) - SHOWN_MODELS, 'more row')} not shown"
    yield ""
    yield headline(cells)
    for line in _reasons(cells):
        yield f"  {line}"
    yield ""
    yield from _next(following)


def _reasons(cells: Sequence[Cell]) -> Iterator[str]:
    """Why a platform is unavailable, once; why models failed or are noisy, each."""
    unavailable = {c.platform: c.reason for c in cells if c.state is State.UNAVAILABLE}
    yield from (f"{platform} is unavailable: {words.short(str(why), 300)}" for platform, why in unavailable.items())
    unprobed = dict.fromkeys(c.platform for c in cells if c.state is State.NEVER and c.reason)
    if unprobed:
        again = "run `hwbench devices --log`, then `hwbench sync` and `hwbench gate`"
        yield f"never probed: {', '.join(unprobed)}; {again}"
    told = {State.FAILED, State.NOISY, State.QUARANTINED, State.SIMULATED}
    lines = [
        f"{words.short(c.model, 40)} on {c.platform}, {c.precision}: {c.state}: {words.short(c.reason, 200)}"
        for c in cells
        if c.state in told and c.reason
    ]
    yield from lines[:SHOWN_NEXT]
    if len(lines) > SHOWN_NEXT:
        yield f"and {len(lines) - SHOWN_NEXT} more (--json has all)"


def _next(following: Sequence[Next]) -> Iterator[str]:
    if not following:
        yield "nothing to run next that would change this, on hardware that was verified"
        return
    yield "most useful next (--plan FILE writes them for `hwbench batch`):"
    for one in following[:SHOWN_NEXT]:
        yield f"  {words.short(one.model, 40)} on {one.platform}, {one.precision}: {one.why}"
    if len(following) > SHOWN_NEXT:
        yield f"  and {len(following) - SHOWN_NEXT} more"


def to_markdown(cells: Sequence[Cell], following: Sequence[Next]) -> Iterator[str]:
    """The same as Markdown."""
    platforms, rows, by_key = _grid(cells)
    yield f"### hwbench coverage: {headline(cells)}"
    yield ""
    yield f"| model | precision | {' | '.join(platforms)} |"
    yield f"| --- | --- |{' --- |' * len(platforms)}"
    for model, precision in rows[:SHOWN_MODELS]:
        said = [cell(_said(by_key.get((model, p, precision)))) for p in platforms]
        yield f"| {cell(model)} | {precision} | {' | '.join(said)} |"
    yield ""
    yield from (f"- {cell(line)}" for line in _reasons(cells))
    yield ""
    yield from (f"{cell(line)}  " for line in _next(following))


def document(cells: Sequence[Cell], following: Sequence[Next], context: Mapping[str, Any]) -> dict[str, Any]:
    """The stable object of ``--json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        **context,
        "counts": {str(state): sum(c.state is state for c in cells) for state in State},
        "cells": [
            {
                "model": c.model, "platform": c.platform, "precision": c.precision, "state": str(c.state),
                "runs": c.runs, "newest": c.newest and f"{c.newest.isoformat()}+00:00", "run_id": c.run_id,
                "reason": c.reason,
            }
            for c in cells
        ],
        "next": [
            {"model": n.model, "platform": n.platform, "precision": n.precision, "why": n.why} for n in following
        ],
    }  # fmt: skip


def to_matrix(following: Sequence[Next]) -> Iterator[str]:
    """A matrix of ``hwbench batch``: each run as a cell of ``include``, with its reason. JSON, which is YAML."""
    yield "# Written by `hwbench coverage --plan`, the most useful first. Run it: hwbench batch --matrix FILE"
    yield "include:"
    for one in following:
        made = {"model": one.model, "hardware": one.platform, "precision": one.precision, "batch_size": 1}
        yield f"  # {words.short(one.why, 200)}"
        yield f"  - {json.dumps(made)}"
