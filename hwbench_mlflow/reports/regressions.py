"""Histories and where they changed: text, Markdown and one JSON object. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hwbench_mlflow.decide.changes import ChangePoint, Story
from hwbench_mlflow.metrics import METRICS
from hwbench_mlflow.reports import words
from hwbench_mlflow.reports.comparison import label
from hwbench_mlflow.reports.text import cell

SCHEMA_VERSION = 1
MARKER = "<!-- hwbench regressions -->"
SHOWN = 50


def headline(stories: Sequence[Story]) -> str:
    """How many histories, and what became of them."""
    short = sum(s.short for s in stories)
    troubled = sum(s.trouble is not None for s in stories)
    opened = sum(s.open is not None for s in stories)
    changed = sum(bool(s.changes) for s in stories)
    parts = [f"{opened} unresolved regressions", f"{changed} histories with a change"]
    parts += [f"{troubled} that cannot be read"] if troubled else []
    parts += [f"{short} with under 8 runs"] if short else []
    return f"{', '.join(parts)}, of {len(stories)} histories"


def to_text(stories: Sequence[Story]) -> Iterator[str]:
    """What is open first, then what changed, then what could not be read."""
    yield headline(stories)
    shown = ordered(stories)
    for story in shown[:SHOWN]:
        yield ""
        yield f"{state(story)}  {name(story)}"
        yield from (f"    {line}" for line in lines(story))
    if len(shown) > SHOWN:
        yield ""
        yield f"{len(shown) - SHOWN} more not shown"


def to_markdown(stories: Sequence[Story]) -> Iterator[str]:
    """For a pull request or a job's summary."""
    yield MARKER
    yield f"### hwbench: {headline(stories)}"
    shown = ordered(stories)
    for story in shown[:SHOWN]:
        yield ""
        yield f"- **{state(story)}** {cell(name(story))}"
        yield from (f"  - {cell(line)}" for line in lines(story))
    if len(shown) > SHOWN:
        yield ""
        yield f"{len(shown) - SHOWN} more not shown."


def ordered(stories: Sequence[Story]) -> list[Story]:
    """Those with something to say, the worst first."""
    worth = [s for s in stories if s.changes or s.trouble is not None]
    return sorted(worth, key=lambda s: (s.open is None, s.trouble is None, -(s.open or 0)))


def state(story: Story) -> str:
    """One word for a history."""
    if story.trouble is not None:
        return "UNREADABLE"
    return "REGRESSION" if story.open is not None else "changed"


def name(story: Story) -> str:
    """Which history it is."""
    config = story.series.configuration
    return f"{label(config)}, host {words.short(str(config['host_id']), 16)}: {story.series.metric}"


def lines(story: Story) -> Iterator[str]:
    """What happened in it, a line each."""
    if story.trouble is not None:
        yield story.trouble
        return
    runs = story.series.runs
    unit = METRICS[story.series.metric].unit
    if story.open is not None and story.baseline is not None:
        start, end = story.baseline
        yield (
            f"now {story.open - 1:+.1%} against its baseline of {end - start} runs "
            f"({runs[start].created_at:%Y-%m-%d %H:%M} to {runs[end - 1].created_at:%Y-%m-%d %H:%M} UTC)"
        )
    for change in reversed(story.changes):
        first = runs[change.index]
        yield (
            f"{first.created_at:%Y-%m-%d %H:%M} UTC, run {first.run_id[:8]}: {change.slowdown - 1:+.1%} "
            f"({words.number(change.before)} to {words.number(change.after, unit)}; {change.index - change.start} runs "
            f"before, {change.end - change.index} after; p {change.p:.2g})"
        )
        yield f"  {_environment(change)}"
    if story.series.earlier:
        yield f"{story.series.earlier} older runs were not looked at (--last)"


def _environment(change: ChangePoint) -> str:
    if not change.environment:
        return "nothing that is recorded changed with it: not driver, kernel, packages, revision or host"
    said = [f"{name} {words.short(a, 60)} -> {words.short(b, 60)}" for name, (a, b) in change.environment.items()]
    more = f" and {len(said) - 12} more" if len(said) > 12 else ""
    return f"with it changed: {', '.join(said[:12])}{more}"


def document(stories: Sequence[Story], context: dict[str, Any]) -> dict[str, Any]:
    """The stable object of ``--json``. Slowdowns above 1 are worse, whichever way the metric is better."""
    return {
        "schema_version": SCHEMA_VERSION,
        **context,
        "histories": len(stories),
        "too_short": sum(s.short for s in stories),
        "regressions": sum(s.open is not None for s in stories),
        "stories": [_entry(s) for s in ordered(stories)],
    }


def _entry(story: Story) -> dict[str, Any]:
    runs = story.series.runs
    return {
        "configuration": dict(story.series.configuration),
        "metric": story.series.metric,
        "unit": METRICS[story.series.metric].unit,
        "runs": len(runs),
        "older_runs": story.series.earlier,
        "state": state(story),
        "trouble": story.trouble,
        "open_slowdown": story.open,
        "baseline_run_ids": [r.run_id for r in runs[slice(*story.baseline)]] if story.baseline else [],
        "changes": [
            {
                "run_id": runs[c.index].run_id, "at": f"{runs[c.index].created_at.isoformat()}+00:00",
                "before": c.before, "after": c.after, "slowdown": c.slowdown, "p": c.p,
                "runs_before": c.index - c.start, "runs_after": c.end - c.index,
                "environment": {name: {"before": a, "after": b} for name, (a, b) in c.environment.items()},
            }
            for c in story.changes
        ],
    }  # fmt: skip
