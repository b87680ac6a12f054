"""How often changes of level are found, and found where there are none: by hwbench, by Otava, by a 5% threshold.

Run from the repository's top: ``python -m tests.benchmarks.bench_changes [--histories N]``. The histories are invented,
100 runs each, with one run's spread of 1%. Otava's own detector is run where it can be imported (its pinned numpy and
scipy keep it from being installed beside MLflow's: ``pip install --no-deps apache-otava==0.8.0`` in a scratch
environment; its analysis imports numpy and scipy alone). The threshold calls a change where the median of the last
three runs is 5% off the median of all before. A change counts as found within two runs of where it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hwbench_mlflow.decide.changes import boundaries

RUNS, SPREAD, NEAR = 100, 0.01, 2
Values = NDArray[np.float64]
Detector = Callable[[Sequence[float]], list[int]]


def threshold(values: Sequence[float]) -> list[int]:
    """Where a run and the two before it are 5% off all before them."""
    return [
        n - 2
        for n in range(10, len(values))
        if abs(np.median(values[n - 2 : n + 1]) / np.median(values[: n - 2]) - 1) > 0.05
    ][:1]


def otava() -> Detector | None:
    """Otava's detector with its default p and window; None where it is not installed."""
    try:
        from otava.analysis import compute_change_points  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    return lambda values: [c.index for c in compute_change_points(list(values), max_pvalue=0.001, min_magnitude=0)[0]]


def plain(draw: np.random.Generator) -> Values:
    return draw.normal(0, SPREAD, RUNS)


def heavy(draw: np.random.Generator) -> Values:
    """Student's t with 3 degrees of freedom, of the same deviation."""
    return draw.standard_t(3, RUNS) * SPREAD / 3**0.5


def bursts(draw: np.random.Generator) -> Values:
    """Four single runs 10% slower."""
    found = plain(draw)
    found[draw.integers(0, RUNS, 4)] += 0.1
    return found


def burst(draw: np.random.Generator) -> Values:
    """Three runs in a row 15% slower."""
    found, at = plain(draw), draw.integers(10, RUNS - 15)
    found[at : at + 3] += 0.15
    return found


def correlated(draw: np.random.Generator) -> Values:
    """Each run remembers half of the one before."""
    found = plain(draw)
    for n in range(1, RUNS):
        found[n] = 0.5 * found[n - 1] + found[n] * 0.75**0.5
    return found


def drift(draw: np.random.Generator) -> Values:
    """4% slower over the whole history, evenly."""
    return plain(draw) + np.linspace(0, 0.04, RUNS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=200)
    options = parser.parse_args()
    found = {"hwbench": boundaries, "Otava": otava(), "5% threshold": threshold}
    detectors = {name: detector for name, detector in found.items() if detector is not None}
    print(f"{'histories with a change':<44}" + "".join(name.rjust(14) for name in detectors))
    for kind in (plain, heavy, bursts, burst, correlated, drift):
        rates = []
        for detector in detectors.values():
            draw = np.random.default_rng(7)
            hits = sum(bool(detector((10 * np.exp(kind(draw))).tolist())) for _ in range(options.histories))
            rates.append(hits / options.histories)
        print(f"none planted: {kind.__name__:<30}" + "".join(f"{rate:>14.1%}" for rate in rates), flush=True)
    for after in (4, 8, 20, 50):
        for shift in (0.02, 0.05, 0.1):
            rates = []
            for detector in detectors.values():
                draw, hits = np.random.default_rng(7), 0
                for _ in range(options.histories):
                    values = 10 * np.exp(plain(draw))
                    values[RUNS - after :] *= 1 + shift
                    hits += any(abs(i - (RUNS - after)) <= NEAR for i in detector(values.tolist()))
                rates.append(hits / options.histories)
            name = f"planted: {shift:.0%}, {after} runs ago"
            print(f"{name:<44}" + "".join(f"{rate:>14.1%}" for rate in rates), flush=True)


if __name__ == "__main__":
    main()
