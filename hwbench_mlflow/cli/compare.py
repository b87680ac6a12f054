"""``hwbench compare``: what is faster, by how much, and how sure that is. Wiring only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from hwbench_mlflow.cli.choices import PATH, PERCENT, published_option
from hwbench_mlflow.decide.selectors import GRAMMAR, VARIES

if TYPE_CHECKING:
    from hwbench_mlflow.decide.comparing import Check, Comparison
    from hwbench_mlflow.decide.selectors import Selector
    from hwbench_mlflow.warehouse.pairs import Sides

_EPILOG = "\b\n" + GRAMMAR


@click.command(epilog=_EPILOG)
@click.argument("a", required=False)
@click.argument("b", required=False)
@click.option("--metric", help="What is compared (default: median latency; throughput where inferences overlapped).")
@click.option(
    "--vary", "varied", multiple=True, type=click.Choice(list(VARIES)),
    help="This differs on purpose: it neither pairs nor stands in the way; repeatable. What both sides name with other "
    "values varies by itself.",
)  # fmt: skip
@click.option(
    "--margin", type=PERCENT, default="2%", show_default=True, help="Closer than this is SAME (if it is sure)."
)
@click.option(
    "--fail-on-regression", "threshold", type=PERCENT, metavar="PERCENT",
    help="Exit with 3 if B is slower by this much or more; and if it may be, for all that was measured.",
)  # fmt: skip
@click.option("--allow-ambiguous", is_flag=True, help="With --fail-on-regression: what is AMBIGUOUS does not fail.")
@click.option("--aa", is_flag=True, help="No B: how often runs of one and the same thing would be called different.")
@click.option("--include-unranked", is_flag=True, help="Compare runs of the profile smoke too.")
@click.option("--format", "form", type=click.Choice(["text", "markdown", "json"]), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-o", "--output", type=PATH, help="Write to this file.")
@published_option
def compare(  # noqa: PLR0917 -- click passes by name
    a: str | None, b: str | None, metric: str | None, varied: tuple[str, ...], margin: float, threshold: float | None,
    allow_ambiguous: bool, aa: bool, include_unranked: bool, form: str, as_json: bool, output: Path | None,
    published: Path, db: Path,
) -> None:  # fmt: skip
    """Compare two sides, configuration by configuration: is B faster or slower than A?

    Reads only what `hwbench gate` published. Each pair is FASTER, SLOWER, SAME (within the margin, for sure) or
    AMBIGUOUS, which says why: too few runs, noise, or two things that are not alike (precision, weights, driver, host,
    key, throttling). Measure both sides at least 4 times; 10 are better. p-values are corrected for all pairs together.
    A configuration on one side only is counted, and fails nothing.

    \b
    hwbench compare git:main git:HEAD --fail-on-regression 5%
    hwbench compare "tag:release=1.0 model:bert" "tag:release=1.1 model:bert"
    hwbench compare "model:bert hardware:cpu" "model:bert hardware:openvino" --vary precision
    hwbench compare 2026-11-01..2026-11-07 2026-11-08.. --format markdown -o comment.md
    hwbench compare --aa
    """
    from hwbench_mlflow.cli.choices import warn_if_stale, with_commits
    from hwbench_mlflow.cli.output import write_whole
    from hwbench_mlflow.decide.comparing import check
    from hwbench_mlflow.decide.comparing import compare as compare_pairs
    from hwbench_mlflow.decide.selectors import parse
    from hwbench_mlflow.decide.selectors import varied as varied_by
    from hwbench_mlflow.warehouse.pairs import open_for, pair_up

    form = "json" if as_json else form
    if aa:
        if b is not None or threshold is not None or form == "markdown":
            raise click.UsageError("--aa takes one side or none, and neither --fail-on-regression nor markdown")
        from hwbench_mlflow.cli.compare_aa import alarms

        alarms(a, metric, margin, form, output, published, db)
        return
    if a is None or b is None:
        raise click.UsageError("give two sides, A and B (or --aa)")
    if allow_ambiguous and threshold is None:
        raise click.UsageError("--allow-ambiguous goes with --fail-on-regression")
    one, other = with_commits(parse(a)), with_commits(parse(b))
    words = varied_by(one, other, varied)
    with open_for(published, [one, other], metric) as found:
        sides = pair_up(found, one, other, words, metric, ranked_only=not include_unranked)
        stale = found.stale_against(db)
    warn_if_stale(stale)
    _nothing_in_common(sides, one, other, found.path)
    compared = compare_pairs(sides.pairs, margin=margin)
    checked = None if threshold is None else check(compared, threshold)
    context = {
        "a": a, "b": b, "varied": list(words), "margin": margin, "runs_a": sides.runs_a, "runs_b": sides.runs_b,
        "stale": stale, "gate_id": found.manifest["gate_id"],
    }  # fmt: skip
    tail = _tail(sides, checked, allow_ambiguous)
    head = [f"A  {a}  ({sides.runs_a} runs)", f"B  {b}  ({sides.runs_b} runs)"]
    if words:
        head.append(f"differing on purpose: {', '.join(words)}")

    def render(out: TextIO) -> None:
        from hwbench_mlflow.reports import comparison

        if form == "json":
            whole = comparison.document(compared, context, checked, ambiguous_passes=allow_ambiguous)
            whole |= {
                "only_a": [dict(w) for w in sides.only_a], "only_b": [dict(w) for w in sides.only_b],
                "left_out": list(sides.left_out),
            }  # fmt: skip
            out.write(json.dumps(whole) + "\n")
            return
        draw = comparison.to_markdown if form == "markdown" else comparison.to_text
        out.writelines(f"{line}\n" for line in draw(compared, head, tail))

    write_whole(output, render)
    if checked is not None and not checked.passed(ambiguous_passes=allow_ambiguous):
        _refuse(checked, allow_ambiguous)


def _nothing_in_common(sides: Sides, a: Selector, b: Selector, path: Path) -> None:
    """Say in what the sides differ, where no configuration is on both."""
    from hwbench_mlflow.errors import StoreError

    if sides.pairs:
        return
    message = f"no configuration was measured on both sides ({a.text} and {b.text}) in {path}"
    if len(sides.only_a) == len(sides.only_b) == 1:
        one, other = sides.only_a[0], sides.only_b[0]
        columns = [name for name in one if one[name] != other[name]]
        words = [word for word, freed in VARIES.items() if set(columns) & set(freed[:1])]
        told = ", ".join(f"{name} {one[name]} and {other[name]}" for name in columns)
        raise StoreError(
            f"{message}: they differ in {told}",
            remedy=f"To compare them all the same: {' '.join(f'--vary {word}' for word in words)}" if words else None,
        )
    raise StoreError(message, remedy="`hwbench coverage` shows what there is; --vary names what may differ")


def _tail(sides: Sides, checked: Check | None, allow_ambiguous: bool) -> list[str]:
    lines = [*sides.notes, *sides.left_out]
    lines += [
        f"{len(only)} configurations are on side {name} only"
        for name, only in (("A", sides.only_a), ("B", sides.only_b))
        if only
    ]
    if checked is not None:
        passed = checked.passed(ambiguous_passes=allow_ambiguous)
        lines.append(
            f"a regression of {checked.threshold:.1%} or more: {len(checked.regressed)} found, "
            f"{len(checked.undecided)} not excluded: {'passed' if passed else 'FAILED'}"
        )
    return lines


def _refuse(checked: Check, allow_ambiguous: bool) -> None:
    from hwbench_mlflow.errors import Refused

    said = []
    if checked.regressed:
        said.append(f"{_named(checked.regressed)} slower by {checked.threshold:.1%} or more")
    if checked.undecided and not allow_ambiguous:
        said.append(f"{_named(checked.undecided)} AMBIGUOUS, and such a regression is not excluded")
    raise Refused("; ".join(said))


def _named(found: Sequence[Comparison]) -> str:
    from hwbench_mlflow.reports.comparison import label

    more = f" and {len(found) - 1} more configurations are" if len(found) > 1 else " is"
    return f"{label(found[0].pair.work)}{more}"
