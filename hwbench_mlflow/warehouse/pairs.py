"""Two searches over the published results, paired by configuration. Grouped in SQL; what it means is decide's."""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwbench_mlflow.decide.comparing import ALIKE, AUTO_METRIC, MIN_ALL, MIN_RUNS, WORK, Pair, Side
from hwbench_mlflow.decide.selectors import VARIES, Selector
from hwbench_mlflow.errors import StoreError, UsageError
from hwbench_mlflow.metrics import METRICS
from hwbench_mlflow.warehouse.chosen import condition, reads_of
from hwbench_mlflow.warehouse.published import Published, open_published

LISTED_RUNS = 50
"""Runs a side that are named; how many there are is always said."""

MAX_SAMPLED = 100
"""Pairs of single runs whose raw samples are looked at."""

COLUMNS = (*WORK, *(name for name in ALIKE if name != "metric"))
"""Published columns that make a configuration, with what has to be alike."""

Work = tuple[Any, ...]
Alike = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """What two searches have in common. ``only_a`` and ``only_b`` are the configurations of one side alone.

    ``left_out`` says which runs found nothing alike on the other side although something else was paired with it.
    """

    runs_a: int
    runs_b: int
    pairs: Sequence[Pair]
    only_a: Sequence[Mapping[str, Any]]
    only_b: Sequence[Mapping[str, Any]]
    left_out: Sequence[str]
    notes: Sequence[str]


def open_for(path: Path, selectors: Iterable[Selector], metric: str | None) -> Published:
    """The published file with what a comparison reads checked. ``metric`` None: as the scenario has it.

    Raises UsageError for a metric that is not one of which more or less is better.
    """
    value_sql(metric)
    reads = reads_of(selectors)
    metrics = [*METRIC_COLUMNS, *([] if metric is None else [metric])]
    reads["real_results"] = list(
        dict.fromkeys(
            [*reads["real_results"], *COLUMNS, "created_at", "stable", "noise_reasons", "throttle_event_count",
             "ranked", "git_dirty", "latency_ms_p50", *metrics]
        )
    )  # fmt: skip
    return open_published(path, reads)


def value_sql(metric: str | None) -> tuple[str, str]:
    """Two expressions: a result's value, and the name of its metric."""
    if metric is not None:
        if metric not in METRICS or METRICS[metric].better is None:
            ranked = ", ".join(name for name, spec in METRICS.items() if spec.better is not None)
            raise UsageError(f"{metric!r} is no metric of which more or less is better", remedy=f"One of {ranked}")
        # A server's latencies are of whatever rate that run found: they compare with nothing.
        held = f"CASE WHEN scenario <> 'server' THEN {metric} END" if metric.startswith("latency_") else metric
        return held, f"'{metric}'"
    whens = [f"WHEN '{scenario}' THEN" for scenario in AUTO_METRIC]
    values = " ".join(f"{w} {m}" for w, m in zip(whens, AUTO_METRIC.values(), strict=True))
    names = " ".join(f"{w} '{m}'" for w, m in zip(whens, AUTO_METRIC.values(), strict=True))
    return f"CASE scenario {values} END", f"CASE scenario {names} END"


METRIC_COLUMNS = tuple(dict.fromkeys(["scenario", *AUTO_METRIC.values()]))

THROTTLED = """(coalesce(throttle_event_count > 0, false)
                OR len(list_filter(noise_reasons, lambda x: starts_with(x, 'throttled'))) > 0)"""


@dataclass(slots=True)
class _Group:
    side: Side
    metric: str
    work: Mapping[str, Any]
    alike: Mapping[str, Any]


def pair_up(
    found: Published, a: Selector, b: Selector, varied: Sequence[str], metric: str | None, *, ranked_only: bool = False
) -> Sides:
    """Every configuration of both sides. Raises StoreError where a side is empty, UsageError where they overlap."""
    values: dict[str, Any] = {}
    value, named = value_sql(metric)
    in_a, in_b = condition(a, "a", values), condition(b, "b", values)
    ranked = " AND ranked" if ranked_only else ""
    found.connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE chosen AS
            SELECT run_id, created_at, stable, git_dirty, {value} AS value, {named} AS metric, {THROTTLED} AS throttled,
                   {", ".join(WORK)}, {", ".join(_alike())}, in_a, in_b
            FROM (SELECT *, {in_a} AS in_a, {in_b} AS in_b FROM real_results) WHERE (in_a OR in_b){ranked}""",
        values,
    )
    runs_a, runs_b, shared, dirty = found.connection.execute(
        "SELECT count(*) FILTER (in_a), count(*) FILTER (in_b), count(*) FILTER (in_a AND in_b), "
        "count(*) FILTER (git_dirty) FROM chosen"
    ).fetchall()[0]
    for name, side, count in (("A", a, runs_a), ("B", b, runs_b)):
        if not count:
            raise StoreError(
                f"side {name} ({side.text}) has no verified result in {found.path}",
                remedy="`hwbench coverage` shows what there is"
                + ("; --include-unranked takes runs of the profile smoke too" if ranked_only else ""),
            )
    if shared:
        raise UsageError(f"{shared} runs are on both sides: nothing can be said of a run against itself")
    free = {column for word in varied for column in VARIES[word]}
    groups = {name: _groups(found, name, free) for name in ("a", "b")}
    sides = _matched(groups["a"], groups["b"], runs_a, runs_b)
    notes = [f"{dirty} runs were made in a working tree with uncommitted changes or new files"] if dirty else []
    if (a.commits or b.commits) and notes:
        sides = replace(sides, notes=notes)
    return replace(sides, pairs=_with_history(found, sides, value))


def _alike() -> list[str]:
    """Content of random weights is by their seed: that they are random says it."""
    weights = "CASE weights WHEN 'pretrained' THEN weights_sha256 END AS weights_sha256"
    return [weights if name == "weights_sha256" else name for name in COLUMNS if name in ALIKE]


def _groups(found: Published, side: str, free: set[str]) -> list[_Group]:
    keys = [name for name in (*COLUMNS, "metric") if name not in free]
    cursor = found.connection.execute(
        f"""SELECT {", ".join(keys)}, count(*) AS n, list(value) FILTER (value IS NOT NULL) AS measured,
                   arg_max(run_id, created_at, {LISTED_RUNS}) AS runs,
                   count(*) FILTER (NOT stable) AS noisy, count(*) FILTER (throttled) AS throttled,
                   count(*) - count(value) AS missing
            FROM chosen WHERE in_{side} GROUP BY {", ".join(keys)} ORDER BY ALL"""
    )
    names = [column[0] for column in cursor.description or ()]
    made = []
    for values in cursor.fetchall():
        row = dict(zip(names, values, strict=True))
        made.append(
            _Group(
                side=Side(
                    count=row["n"], values=row["measured"] or (), run_ids=row["runs"],
                    noisy=row["noisy"], throttled=row["throttled"], missing=row["missing"],
                ),
                metric=row["metric"],
                work={name: row.get(name) for name in WORK},
                alike={name: row[name] for name in ALIKE if name in row},
            )
        )  # fmt: skip
    return made


def _matched(a: Sequence[_Group], b: Sequence[_Group], runs_a: int, runs_b: int) -> Sides:
    """Alike with alike; what is left of the same work is one pair that says in what it differs."""

    def exact(group: _Group) -> tuple[Any, ...]:
        return (*group.work.values(), *group.alike.values())

    def by(groups: Sequence[_Group], key: Callable[[_Group], tuple[Any, ...]]) -> dict[tuple[Any, ...], list[_Group]]:
        made: dict[tuple[Any, ...], list[_Group]] = {}
        for group in groups:
            made.setdefault(key(group), []).append(group)
        return made

    first, second = by(a, exact), by(b, exact)
    pairs = [_pair(first[key][0], second[key][0]) for key in first if key in second]
    paired = {tuple(p.work.values()) for p in pairs}
    left_a = by([g for key, gs in first.items() if key not in second for g in gs], lambda g: tuple(g.work.values()))
    left_b = by([g for key, gs in second.items() if key not in first for g in gs], lambda g: tuple(g.work.values()))
    left_out, only = [], {"A": list[Mapping[str, Any]](), "B": list[Mapping[str, Any]]()}
    for work, groups in left_a.items():
        if work in left_b:
            pairs.append(_pair(_merged(groups), _merged(left_b[work])))
    for name, mine, theirs in (("A", left_a, left_b), ("B", left_b, left_a)):
        for work, groups in mine.items():
            if work in theirs:
                continue
            if work in paired:
                runs = sum(g.side.count for g in groups)
                what = ", ".join(dict.fromkeys(f"{ALIKE[c]} {v}" for g in groups for c, v in g.alike.items()))
                left_out.append(f"{runs} runs of {name} have no counterpart: {what}")
            else:
                only[name].append(groups[0].work)
    return Sides(
        runs_a=runs_a, runs_b=runs_b, pairs=pairs, only_a=only["A"], only_b=only["B"], left_out=left_out, notes=()
    )


def _merged(groups: Sequence[_Group]) -> _Group:
    sides = [g.side for g in groups]
    side = Side(
        count=sum(s.count for s in sides), values=[v for s in sides for v in s.values],
        run_ids=sorted(r for s in sides for r in s.run_ids)[:LISTED_RUNS], noisy=sum(s.noisy for s in sides),
        throttled=sum(s.throttled for s in sides), missing=sum(s.missing for s in sides),
    )  # fmt: skip
    alike = {name: " or ".join(dict.fromkeys(_said(g.alike[name]) for g in groups)) for name in groups[0].alike}
    return _Group(side, groups[0].metric, groups[0].work, alike)


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def _pair(a: _Group, b: _Group) -> Pair:
    differs = {
        name: (_said(a.alike[name]), _said(b.alike[name]))
        for name in a.alike
        if _said(a.alike[name]) != _said(b.alike[name])
    }
    return Pair(work=a.work, metric=a.metric, a=a.side, b=b.side, differs=differs)


def _with_history(found: Published, sides: Sides, value: str) -> list[Pair]:
    """History and samples, for the pairs that have too few runs to do without."""
    few = [p for p in sides.pairs if not p.differs and _is_few(p)]
    histories = _histories(found, [run for p in few for run in (p.a.run_ids[0], p.b.run_ids[0])], value)
    made: list[Pair] = []
    single: list[int] = []
    for pair in sides.pairs:
        known = pair
        if pair in few:
            longest = max((histories.get(s.run_ids[0], []) for s in (pair.a, pair.b)), key=len)
            known = replace(pair, history=longest)
            if len(longest) < MIN_ALL and pair.a.count == pair.b.count == 1 and pair.metric == "latency_ms_p50":
                single.append(len(made))
        made.append(known)
    if single:
        single = single[:MAX_SAMPLED]
        samples = _samples(found, [s.run_ids[0] for n in single for s in (made[n].a, made[n].b)])
        for n in single:
            pair = made[n]
            made[n] = replace(
                pair, samples_a=samples.get(pair.a.run_ids[0], ()), samples_b=samples.get(pair.b.run_ids[0], ())
            )
    return made


def _is_few(pair: Pair) -> bool:
    a, b = len(pair.a.values), len(pair.b.values)
    return min(a, b) > 0 and min(a, b) < MIN_RUNS and a + b < MIN_ALL


def _histories(found: Published, runs: Sequence[str], value: str) -> dict[str, list[float]]:
    """Run -> the values of every published run of its very configuration, oldest first."""
    if not runs:
        return {}
    same = " AND ".join(f"h.{name} IS NOT DISTINCT FROM p.{name}" for name in COLUMNS)
    columns = ", ".join([*WORK, *_alike()])
    rows = found.connection.execute(
        f"""WITH known AS (SELECT run_id, created_at, {value} AS value, {columns} FROM real_results)
            SELECT p.run_id, list(h.value ORDER BY h.created_at, h.run_id)
            FROM (FROM known WHERE list_contains($runs::VARCHAR[], run_id)) p JOIN known h ON {same}
            WHERE h.value IS NOT NULL GROUP BY p.run_id""",
        {"runs": list(dict.fromkeys(runs))},
    ).fetchall()
    return dict(rows)


def _samples(found: Published, runs: Sequence[str]) -> dict[str, list[list[float]]]:
    found.check("samples", ["run_id", "worker", "sample", "latency_ms"])
    rows = found.connection.execute(
        """SELECT run_id, list(latency_ms ORDER BY sample) FROM samples
           WHERE list_contains($runs::VARCHAR[], run_id) GROUP BY run_id, worker ORDER BY run_id, worker""",
        {"runs": list(dict.fromkeys(runs))},
    ).fetchall()
    found_samples: dict[str, list[list[float]]] = {}
    for run, values in rows:
        found_samples.setdefault(run, []).append(values)
    return found_samples


def histories(found: Published, a: Selector | None, metric: str | None) -> list[Pair]:
    """Each configuration that was measured on one machine, as a pair whose side A holds its values, oldest first."""
    values: dict[str, Any] = {}
    value, named = value_sql(metric)
    wanted = "true" if a is None else condition(a, "a", values)
    columns = ", ".join([*WORK, *_alike()])
    keys = ", ".join(COLUMNS)
    cursor = found.connection.execute(
        f"""SELECT {keys}, metric, list(value ORDER BY created_at, run_id) AS measured,
                   arg_max(run_id, created_at, {LISTED_RUNS}) AS runs
            FROM (SELECT run_id, created_at, {value} AS value, {named} AS metric, {columns}
                  FROM real_results WHERE ranked AND {wanted})
            WHERE value IS NOT NULL GROUP BY {keys}, metric ORDER BY ALL""",
        values,
    )
    names = [column[0] for column in cursor.description or ()]
    made = []
    for values_of in cursor.fetchall():
        row = dict(zip(names, values_of, strict=True))
        side = Side(count=len(row["measured"]), values=row["measured"], run_ids=row["runs"])
        made.append(Pair(work={n: row[n] for n in WORK}, metric=row["metric"], a=side, b=side, differs={}))
    return made
