"""Two things measured in turns, and what their ratio comes to.

Owns the pairs, the interval of their ratios, and the table that every benchmark ends with. Pairs, because
what else runs on the machine hits both of a pair alike; in turns, because whoever goes second finds warm caches.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import TypeVar

from hwbench_mlflow.stats import median, median_interval, quantile

T = TypeVar("T")

HEADER = ("what", "hwbench", "peer", "figure", "95% interval", "quartiles", "n", "target", "met")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table, as text. ``met`` is ``yes``, ``no``, or ``cannot tell`` where the interval holds both."""

    what: str
    hwbench: str
    peer: str
    figure: str
    interval: str
    quartiles: str
    n: str
    target: str
    met: str


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to be: at least ``low`` (if there is one) and at most ``high``."""

    high: float
    low: float | None = None

    def __str__(self) -> str:
        return f"<= {self.high:g}" if self.low is None else f"{self.low:g} to {self.high:g}"

    def met(self, low: float, high: float) -> str:
        """Whether a figure known to lie between ``low`` and ``high`` is within the target."""
        floor = float("-inf") if self.low is None else self.low
        if floor <= low and high <= self.high:
            return "yes"
        return "no" if high < floor or low > self.high else "cannot tell"


def in_turns(ours: Callable[[], T], peer: Callable[[], T], pairs: int) -> list[tuple[T, T]]:
    """``pairs`` measurements of both. Who goes first changes from pair to pair."""
    found = []
    for index in range(pairs):
        if index % 2:
            theirs = peer()
            found.append((ours(), theirs))
        else:
            own = ours()
            found.append((own, peer()))
    return found


def ratio_row(what: str, pairs: Sequence[tuple[float, float]], target: Target, unit: str, scale: float) -> Row:
    """The median of the pairs' ratios (ours over the peer's). ``scale`` turns a value into ``unit``."""
    return figure_row(
        what,
        [ours / peer for ours, peer in pairs],
        target,
        "{:.3f}",
        hwbench=f"{median([ours for ours, _ in pairs]) * scale:.3f} {unit}",
        peer=f"{median([peer for _, peer in pairs]) * scale:.3f} {unit}",
    )


def figure_row(
    what: str, values: Sequence[float], target: Target, form: str, *, hwbench: str = "-", peer: str = "-"
) -> Row:
    """The median of ``values`` with its 95% interval; below 6 values there is none, and no saying what is met."""
    ordered = sorted(values)
    interval = median_interval(ordered)
    return Row(
        what=what,
        hwbench=hwbench,
        peer=peer,
        figure=form.format(median(ordered)),
        interval=" to ".join(map(form.format, interval)) if interval else "too few",
        quartiles=f"{form.format(quantile(ordered, 0.25))} to {form.format(quantile(ordered, 0.75))}",
        n=str(len(ordered)),
        target=str(target),
        met=target.met(*interval) if interval else "cannot tell",
    )


def table(rows: Iterable[Row]) -> str:
    """Plain text, columns two blanks apart."""
    lines = [HEADER, *(astuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def arguments(description: str | None) -> argparse.ArgumentParser:
    """``--smallest``: enough to fill the table, too little to believe it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smallest", action="store_true", help="the least that fills the table; no number to believe")
    return parser
