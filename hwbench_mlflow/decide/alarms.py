"""A/A: how often runs of one and the same thing would be called FASTER or SLOWER, by the very rules of a comparison.

Pure. Two estimates, from the published history of each configuration:

* *neighbours*: the history cut into stretches of eight runs that do not overlap, the first four of each against its
  last four, as two measurements one after the other would be. Stretches share no run, so the interval over them is
  binomial. Drift and changes of the machine are in it, as they are in real comparisons.
* *random splits*: each history is split in halves at random, many times. The halves are exchangeable, so this is the
  rate of the rules themselves on numbers spread like these; its interval is that of the draws, over these runs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hwbench_mlflow.decide import ratios
from hwbench_mlflow.decide.comparing import MIN_RUNS, Outcome, Pair, Side, compare

SPLITS = 400
"""Random splits in all, shared by the configurations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many false alarms in so many comparisons, with the 95% interval of their share."""

    alarms: int
    same: int
    comparisons: int

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson's."""
        return ratios.binomial_interval(self.alarms, self.comparisons)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarms:
    """``histories`` had enough runs, ``short`` had not. A rate is None where nothing could be compared."""

    histories: int
    short: int
    runs: int
    neighbours: Rate | None
    splits: Rate | None
    spreads: Sequence[tuple[Pair, float]]
    """Each history as a pair of itself, and the spread of its runs: the standard deviation of their logarithms."""


def alarms(histories: Sequence[Pair], *, margin: float, seed: int = 0) -> Alarms:
    """``histories``: for each configuration a pair whose side A holds its values, oldest first; B is not looked at."""
    import numpy as np

    enough = [h for h in histories if len(h.a.values) >= 2 * MIN_RUNS]
    stretches = [
        (h, h.a.values[start : start + MIN_RUNS], h.a.values[start + MIN_RUNS : start + 2 * MIN_RUNS])
        for h in enough
        for start in range(0, len(h.a.values) - 2 * MIN_RUNS + 1, 2 * MIN_RUNS)
    ]
    draw = np.random.default_rng(seed)
    splits = []
    for n in range(SPLITS if enough else 0):
        history = enough[n % len(enough)]
        order = draw.permutation(len(history.a.values))
        half = len(order) // 2
        mixed = [history.a.values[i] for i in order]
        splits.append((history, mixed[:half], mixed[half:]))
    return Alarms(
        histories=len(enough), short=len(histories) - len(enough), runs=sum(len(h.a.values) for h in enough),
        neighbours=_rate(stretches, margin), splits=_rate(splits, margin),
        spreads=[(h, ratios.log_spread(h.a.values)) for h in enough],
    )  # fmt: skip


def _rate(made: Sequence[tuple[Pair, Sequence[float], Sequence[float]]], margin: float) -> Rate | None:
    """Each comparison on its own: corrected for many, a family of a thousand would never raise an alarm."""
    if not made:
        return None
    outcomes = [
        compare([replace(pair, a=_side(a), b=_side(b), differs={})], margin=margin)[0].outcome for pair, a, b in made
    ]
    return Rate(
        alarms=sum(o in {Outcome.FASTER, Outcome.SLOWER} for o in outcomes), same=outcomes.count(Outcome.SAME),
        comparisons=len(outcomes),
    )  # fmt: skip


def _side(values: Sequence[float]) -> Side:
    return Side(count=len(values), values=values, run_ids=())
