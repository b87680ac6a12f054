"""How much one set of measurements differs from another: ratios of medians, their intervals, tests, effect sizes.

Pure; numpy and scipy. The unit is a *run* wherever there are several: samples within a run share its process, its
memory layout and its hour, so they are not independent, and an interval over them is far too narrow for a claim about
the next run (Kalibera and Jones, Rigorous benchmarking in reasonable time, ISMM 2013; Field and Welsh, Bootstrapping
clustered data, J. R. Stat. Soc. B 2007). Everything random is seeded, and symmetric in its two sides: B against A is
the reciprocal of A against B to the last bit but rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = NDArray[np.float64]

RESAMPLES = 2000
"""Half of them each way round; enough for a 95% percentile interval (Davison and Hinkley, Bootstrap Methods, 5.2)."""


def _medians_of_resamples(ordered: Values, stream: int, seed: int) -> Values:
    """Medians of bootstrap resamples of sorted values, drawn without making the resamples.

    The k-th smallest of n values drawn with replacement is ``ordered[floor(n u)]`` where u is the k-th smallest of n
    uniforms: Beta(k, n + 1 - k). Exact, and as fast for ten thousand runs as for ten (Hutson and Ernst, The exact
    bootstrap mean and variance of an L-estimator, J. R. Stat. Soc. B 2000).
    """
    n, half = len(ordered), RESAMPLES // 2
    draw = np.random.default_rng([seed, stream])
    k = (n + 1) // 2
    lower = draw.beta(k, n + 1 - k, half)
    low = ordered[np.minimum((n * lower).astype(np.int64), n - 1)]
    if n % 2:
        return low
    # The next one up is the least of the n - k uniforms that are left above.
    upper = 1 - (1 - lower) * draw.beta(n - k, 1, half)
    return (low + ordered[np.minimum((n * upper).astype(np.int64), n - 1)]) / 2


def median_ratio_interval(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of median(b) / median(a), each resampled by its own elements.

    ``a`` and ``b`` are positive: one number a run. Raises ValueError for under four on a side: a bootstrap of such
    medians says nothing.
    """
    if min(len(a), len(b)) < 4:
        raise ValueError("a bootstrap of medians needs four values a side")
    first, second = np.sort(np.asarray(a, dtype=float)), np.sort(np.asarray(b, dtype=float))
    return _interval(
        np.concatenate(
            [
                np.log(_medians_of_resamples(second, 1, seed)) - np.log(_medians_of_resamples(first, 2, seed)),
                np.log(_medians_of_resamples(second, 2, seed)) - np.log(_medians_of_resamples(first, 1, seed)),
            ]
        )
    )


def block_ratio_interval(
    a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], *, seed: int = 0
) -> tuple[float, float]:
    """The 95% percentile interval of median(b) / median(a) by moving blocks of samples within each worker.

    ``a`` and ``b`` are the samples of one run each, a sequence a worker, in the order they were measured. Blocks of
    the cube root of a worker's samples keep what neighbours have in common (Kuensch, The jackknife and the bootstrap
    for general stationary observations, Ann. Stat. 1989; Hall, Horowitz and Jing, Biometrika 1995, for the length).
    What differs between two runs is *not* in it.
    """
    sides = [[np.asarray(worker, dtype=float) for worker in side if len(worker)] for side in (a, b)]
    if not all(sides):
        raise ValueError("a side has no samples")
    draws = [[np.log(_medians_of_blocks(side, stream, seed)) for stream in (1, 2)] for side in sides]
    (first_1, first_2), (second_1, second_2) = draws
    return _interval(np.concatenate([second_1 - first_2, second_2 - first_1]))


def _medians_of_blocks(workers: Sequence[Values], stream: int, seed: int) -> Values:
    draw = np.random.default_rng([seed, stream])
    half = RESAMPLES // 2
    parts = []
    for worker in workers:
        n = len(worker)
        length = max(1, round(n ** (1 / 3)))
        blocks = -(-n // length)
        starts = draw.integers(0, n - length + 1, (half, blocks))
        index = (starts[:, :, None] + np.arange(length)).reshape(half, -1)[:, :n]
        parts.append(worker[index])
    medians: Values = np.median(np.concatenate(parts, axis=1), axis=1)
    return medians


def _interval(log_ratios: Values) -> tuple[float, float]:
    # Of logarithms, so that the interval of the reciprocal is the reciprocal of the interval.
    low, high = np.exp(np.quantile(log_ratios, [0.025, 0.975]))
    return float(low), float(high)


def log_spread(values: Sequence[float]) -> float:
    """The standard deviation of the logarithms of at least two values."""
    return float(np.std(np.log(np.asarray(values, dtype=float)), ddof=1))


def successive_spread(values: Sequence[float]) -> float:
    """Run-to-run standard deviation of logarithms, from the differences of neighbours in time.

    Half the mean square of successive differences: a shift or a slow drift of the level hardly raises it, where the
    plain deviation would call every regression noise (von Neumann et al., Ann. Math. Stat. 1941). Two values or more.
    """
    steps = np.diff(np.log(np.asarray(values, dtype=float)))
    return float(np.sqrt(np.mean(steps**2) / 2))


def spread_ratio_interval(
    a: Sequence[float], b: Sequence[float], spread: float, degrees: int
) -> tuple[float, float, float]:
    """The 95% interval of median(b) / median(a) and the two-sided p-value, where runs are few.

    Student's t on logarithms with a spread of single runs that is known with ``degrees`` of freedom; with one run on
    a side, the test of a single case against a sample (Crawford and Howell, Clin. Neuropsychol. 1998).
    """
    from scipy.special import stdtr, stdtrit

    middle = float(np.median(np.log(np.asarray(b, dtype=float))) - np.median(np.log(np.asarray(a, dtype=float))))
    # Medians of two are their mean; of three, their variance is 1.35 times the mean's (normal order statistics).
    parts = [(1.35 if n == 3 else np.pi / 2 if n > 3 else 1.0) / n for n in (len(a), len(b))]
    error = max(spread, float(np.finfo(float).eps)) * float(np.sqrt(sum(parts)))
    half = float(stdtrit(degrees, 0.975)) * error
    return float(np.exp(middle - half)), float(np.exp(middle + half)), float(2 * stdtr(degrees, -abs(middle) / error))


def pooled_spread(a: Sequence[float], b: Sequence[float]) -> tuple[float, int]:
    """The spread of single runs in both sides together, around each one's mean, and its degrees of freedom."""
    degrees = len(a) + len(b) - 2
    squares = sum(float(np.sum((logs - logs.mean()) ** 2)) for logs in (np.log(np.asarray(x, float)) for x in (a, b)))
    return float(np.sqrt(squares / degrees)), degrees


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float:
    """The two-sided p-value of the Mann-Whitney U test; exact for few values without ties."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(a, b, alternative="two-sided").pvalue)


def a12(a: Sequence[float], b: Sequence[float]) -> float:
    """Vargha and Delaney's A: the chance that one of ``b`` is larger than one of ``a``, ties counted half.

    Cliff's delta is ``2 * a12 - 1`` (Vargha and Delaney, J. Educ. Behav. Stat. 2000).
    """
    ordered = np.sort(np.asarray(a, dtype=float))
    values = np.asarray(b, dtype=float)
    below = np.searchsorted(ordered, values, "left")
    upto = np.searchsorted(ordered, values, "right")
    return float((below + upto).sum() / 2 / len(ordered) / len(values))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment for the family of all that are not None (Scand. J. Stat. 1979)."""
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        adjusted[index] = highest
    return adjusted


def binomial_interval(hits: int, trials: int) -> tuple[float, float]:
    """The exact 95% interval of a proportion (Clopper and Pearson, Biometrika 1934); of no trials, 0 to 1."""
    from scipy.special import betaincinv

    low = 0.0 if hits == 0 else float(betaincinv(hits, trials - hits + 1, 0.025))
    high = 1.0 if hits == trials else float(betaincinv(hits + 1, trials - hits, 0.975))
    return low, high
