"""An MLflow tracking server, read over its REST API: for stores whose database cannot be reached.

There is no snapshot over REST. Runs are listed by ascending start time, which never changes, so that no page depends
on an offset; then the metric histories are read; then every run that is about to be written is read *again*, and
must be what it was before its history. A run that moved is read anew, a few rounds; one that never stands still is
refused by name and left to the next sync. So is a run whose history lacks its latest metrics: a server or a proxy
that hides the one shows the other. Of runs that the mirror lacks, histories and second looks are asked for while more
runs are listed, several requests at a time: a server with several workers, as MLflow's has by default, does them side
by side. A run that was not listed is asked for by its id: only MLflow's own
"does not exist" makes it gone.

What the API does not tell (MLflow 3.17, `RunInfo.to_proto`, `Experiment.to_proto`) is NULL in the mirror:

* ``runs.deleted_time``, ``source_type``, ``source_name``, ``entry_point_name``, ``source_version``: never sent.
* ``end_time`` 0 and ``artifact_uri`` '' cannot be told from NULL, nor an experiment's times of 0; a run whose ``name``
  is NULL is given the name in its tag ``mlflow.runName``.

Values come exactly: NaN is sent as NaN, so ``is_nan`` is known; infinities are what the store clamped them to; doubles
are sent in full. Two points of one key with the same time and step, one NaN and one 0, are told apart.

``Mode.DEFAULT`` reads every run's history, because a late point at a lower step leaves no other trace. ``Mode.FAST``
reads histories only of runs that show another change. Histories come a hundred runs a request where the server has
`get-history-bulk` (3.17 has, under /ajax-api), otherwise a run and key at a time; a bulk answer at its cap of 25,000
points is never believed.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.warehouse.readers import Mode, Request, StoreState
from hwbench_mlflow.warehouse.readers.http import Forbidden, NoEndpoint, NotThere, Server
from hwbench_mlflow.warehouse.readers.tables import check_names
from hwbench_mlflow.warehouse.stage import CHILDREN, MIRROR, column_type

if TYPE_CHECKING:
    from hwbench_mlflow.warehouse.stage import Stage

API, AJAX = "/api/2.0/mlflow", "/ajax-api/2.0/mlflow"
FIRST_PAGE, PAGE = 100, 1_000
"""Runs of the first page, and of any page at most: each is twice as long as the one before. Histories are asked for
while more runs are listed, so a short first page lets a server's other workers begin; but a server sorts all of its
runs for each page. It would take up to 50,000, which lie whole in its memory and in ours."""
EXPERIMENTS_A_SEARCH = 200
RUNS_A_REQUEST = 100
"""The most that get-history-bulk takes."""
BULK_CAP = 25_000
HISTORY_PAGE = 10_000
ROUNDS = 5
WORKERS = 4
CHUNKS_AHEAD = 20
"""Chunks of runs whose histories are waited for before more runs are listed: their points lie in memory."""

Rows = dict[str, list[tuple[Any, ...]]]


class RestReader:
    """Reads the server at ``uri`` as the user of MLflow's own environment variables."""

    kind = "rest"
    snapshot = False

    def __init__(self, uri: str, environ: Mapping[str, str] = os.environ, *, server: Server | None = None) -> None:
        self._server = server or Server(uri, environ)
        self.store = self._server.url
        self._bulk = True

    def written_since(self, moment_ns: int) -> bool:  # noqa: ARG002 -- the contract's name
        """A server's database has no such time."""
        return False

    def unchanged(self, previous: StoreState) -> bool:  # noqa: ARG002 -- the contract's name
        """A server cannot be asked whether anything changed."""
        return False

    def confirm_gone(self, run_ids: Sequence[str]) -> set[str]:
        """The runs of which the server says, asked one by one, that they do not exist."""
        with _pool() as pool:
            return {run_id for run_id, gone in zip(run_ids, pool.map(self._is_gone, run_ids), strict=True) if gone}

    def _is_gone(self, run_id: str) -> bool:
        try:
            self._server.get(f"{API}/runs/get", [("run_id", run_id)])
        except NotThere:
            return True
        except Forbidden:
            return False
        return False

    def read(self, stage: Stage, request: Request) -> StoreState:
        """See :class:`~hwbench_mlflow.warehouse.readers.Reader`."""
        experiments = self._read_experiments(stage, request.experiments)
        with _pool() as pool, _pool(1) as lister:
            seen, early = _Seen(), request.mode is not Mode.FAST or request.previous is None
            under_way = _UnderWay(self, pool, stage, seen)
            for begin in range(0, len(experiments), EXPERIMENTS_A_SEARCH):
                for page in self._listed(lister, experiments[begin : begin + EXPERIMENTS_A_SEARCH]):
                    keys = seen.add(stage, page)
                    if early:
                        under_way.ask(keys)
                        under_way.load()
            names = sorted(seen.digests)
            if not early:
                names = stage.differing(("tags", "params", "latest_metrics"))
                under_way.ask(stage.staged_keys(names))
            under_way.load(all_of_it=True)
            stage.add_candidates(names)
            candidates = set(names)
            self._confirm(stage, under_way, [r for r in stage.differing(CHILDREN) if r in candidates])
        return StoreState(kind=self.kind)

    def _confirm(self, stage: Stage, under_way: _UnderWay, unsure: Sequence[str]) -> None:
        """Read the runs again that are going to be written, until each was the same before and after its history."""
        seen = under_way.seen
        for _ in range(ROUNDS):
            standing, moved = under_way.looked_at(unsure)
            gone = [r for r in unsure if r not in standing and r not in moved]
            stage.refuse(
                (r, "the server does not show the metric history that its latest metrics come from")
                for r in stage.torn([r for r in unsure if r in standing])
            )
            stage.forget([*gone, *moved])
            seen.drop([*gone, *moved])
            if not moved:
                return
            keys = seen.add(stage, moved.values())
            unsure = [r for r in moved if r in keys]
            under_way.ask(keys, new=False)
            under_way.load(all_of_it=True)
        stage.refuse((r, "it kept changing while it was read; the next sync tries again") for r in unsure)

    # -- experiments -----------------------------------------------------------------------------------------------

    def _read_experiments(self, stage: Stage, names: tuple[str, ...]) -> list[str]:
        """Stage the experiments in scope; return their ids. Read until two lists agree: the pages are offset pages."""
        before: list[dict[str, Any]] | None = None
        for _ in range(ROUNDS):
            listed = self._experiments()
            if listed == before:
                break
            before = listed
        else:
            raise StoreError(f"the experiments of {self.store} kept changing while they were read", remedy="try again")
        if names:
            known = {e["name"]: int(e["experiment_id"]) for e in listed}
            check_names(known, names)
            listed = [e for e in listed if e["name"] in names]
        rows: Rows = {
            "experiments": [
                (
                    int(e["experiment_id"]), e["name"], e.get("artifact_location"), e.get("lifecycle_stage"),
                    _time(e.get("creation_time")), _time(e.get("last_update_time")), e.get("workspace"),
                )
                for e in listed
            ],
            "experiment_tags": [
                (int(e["experiment_id"]), t["key"], t.get("value")) for e in listed for t in e.get("tags", [])
            ],
        }  # fmt: skip
        _load(stage, rows)
        if not names:
            for experiment_id in stage.unlisted_experiments():
                if not self._experiment_is_gone(experiment_id):
                    stage.keep_experiment(experiment_id)
        return [e["experiment_id"] for e in listed]

    def _experiments(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        body: dict[str, Any] = {"view_type": "ALL", "max_results": PAGE, "order_by": ["experiment_id ASC"]}
        while True:
            answer = self._server.post(f"{API}/experiments/search", body)
            found += answer.get("experiments", [])
            if not answer.get("next_page_token"):
                return found
            body["page_token"] = answer["next_page_token"]

    def _experiment_is_gone(self, experiment_id: int) -> bool:
        try:
            self._server.get(f"{API}/experiments/get", [("experiment_id", str(experiment_id))])
        except NotThere:
            return True
        except Forbidden:
            return False
        return False

    # -- runs ------------------------------------------------------------------------------------------------------

    def _listed(self, pool: ThreadPoolExecutor, experiments: list[str]) -> Iterator[list[dict[str, Any]]]:
        """Every run of the experiments, deleted ones too, by keyset pages of start times.

        The next page is asked for before the caller has this one.
        """
        count = min(FIRST_PAGE, PAGE)
        asked = pool.submit(self._search, experiments, "", count=count)
        while True:
            page, more = asked.result()
            if not more:
                yield page
                return
            last = page[-1]["info"]["start_time"]
            # The last start time may go on beyond this page: it is for the next one.
            whole = [r for r in page if r["info"]["start_time"] != last]
            after = int(whole[-1]["info"]["start_time"] if whole else last)
            count = min(2 * count, PAGE)
            asked = pool.submit(self._search, experiments, f"attributes.start_time > {after}", count=count)
            if whole:
                yield whole
            else:
                yield from self._tied(experiments, after)

    def _tied(self, experiments: list[str], start_time: int) -> Iterator[list[dict[str, Any]]]:
        """More runs than a page with one start time: only offsets reach them.

        What a deletion makes an offset page skip is no loss: a mirrored run is then asked for by its id, and one not
        yet mirrored is for the next sync.
        """
        token: str | None = None
        known: set[str] = set()
        while True:
            page, token = self._search(experiments, f"attributes.start_time = {start_time}", token, count=PAGE)
            fresh = [r for r in page if r["info"]["run_id"] not in known]
            known.update(r["info"]["run_id"] for r in fresh)
            yield fresh
            if not token:
                return

    def _search(
        self, experiments: list[str], condition: str, token: str | None = None, *, count: int
    ) -> tuple[list[dict[str, Any]], str | None]:
        body: dict[str, Any] = {
            "experiment_ids": experiments,
            "filter": condition,
            "run_view_type": "ALL",
            "max_results": count,
            "order_by": ["attributes.start_time ASC"],
        }
        if token:
            body["page_token"] = token
        answer = self._server.post(f"{API}/runs/search", body)
        return answer.get("runs", []), answer.get("next_page_token") or None

    def look_up(self, seen: _Seen, run_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The named runs as they are now; those that the server no longer shows are missing."""
        listed = ", ".join(f"'{r}'" for r in run_ids)
        experiments = sorted({seen.experiments[r] for r in run_ids})
        return self._search(experiments, f"attributes.run_id IN ({listed})", count=len(run_ids))[0]

    # -- histories -------------------------------------------------------------------------------------------------

    def points(self, key: str, run_ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Every point of one key in up to a hundred runs."""
        if self._bulk:
            try:
                answer = self._server.get(
                    f"{AJAX}/metrics/get-history-bulk",
                    [("metric_key", key), ("max_results", str(BULK_CAP)), *(("run_id", r) for r in run_ids)],
                )
            except (NoEndpoint, Forbidden):
                self._bulk = False
            except NotThere:
                # One of them vanished while we read; the others are still to be had.
                pass
            else:
                found = answer.get("metrics", [])
                if len(found) < BULK_CAP:
                    return [_point(m["run_id"], m) for m in found]
        if len(run_ids) > 1 and self._bulk:
            half = len(run_ids) // 2
            return self.points(key, run_ids[:half]) + self.points(key, run_ids[half:])
        return [p for r in run_ids for p in self._one_history(key, r)]

    def _one_history(self, key: str, run_id: str) -> Iterable[tuple[Any, ...]]:
        """One run's points by pages. A point that comes early shifts the pages: a repeated one is dropped."""
        found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        query = [("run_id", run_id), ("metric_key", key), ("max_results", str(HISTORY_PAGE))]
        token: str | None = None
        while True:
            try:
                answer = self._server.get(
                    f"{API}/metrics/get-history", query + ([("page_token", token)] if token else [])
                )
            except (NotThere, Forbidden):
                return []  # it vanished, or is hidden: reading the run again will tell which
            for metric in answer.get("metrics", []):
                point = _point(run_id, metric)
                found["nan" if point[5] else point[2], *point[3:]] = point
            token = answer.get("next_page_token")
            if not token:
                return found.values()


@dataclass(slots=True)
class _Chunk:
    """Runs whose histories were asked for, a key each, and then the runs again if the mirror lacks them."""

    run_ids: list[str]
    points: list[Future[list[tuple[Any, ...]]]]
    new: bool


class _UnderWay:
    """Requests that were sent and not yet answered, while the caller's thread lists runs and loads the stage."""

    def __init__(self, reader: RestReader, pool: ThreadPoolExecutor, stage: Stage, seen: _Seen) -> None:
        self.seen = seen
        self._reader, self._pool, self._stage = reader, pool, stage
        self._mirrored = stage.mirrored_runs()
        self._chunks: deque[_Chunk] = deque()
        self._looks: deque[tuple[Sequence[str], Future[list[dict[str, Any]]]]] = deque()
        self._looked: set[str] = set()
        self._standing: set[str] = set()
        self._moved: dict[str, dict[str, Any]] = {}

    def ask(self, keys: Mapping[str, Sequence[str]], *, new: bool = True) -> None:
        """Ask for the histories of runs by their metrics' ``keys``; with ``new`` for those again that no mirror has."""
        lacking = [r for r in keys if new and r not in self._mirrored]
        for group, again in ((lacking, True), ([r for r in keys if r not in set(lacking)], False)):
            for run_ids in _chunks(group, RUNS_A_REQUEST):
                wanted: dict[str, list[str]] = {}
                for run_id in run_ids:
                    for key in keys[run_id]:
                        wanted.setdefault(key, []).append(run_id)
                points = [self._pool.submit(self._reader.points, key, runs) for key, runs in sorted(wanted.items())]
                self._chunks.append(_Chunk(list(run_ids), points, again))

    def load(self, *, all_of_it: bool = False) -> None:
        """Stage what was answered, in the order of the asking; with ``all_of_it`` wait for the rest."""
        while self._chunks and (
            all_of_it or len(self._chunks) > CHUNKS_AHEAD or all(f.done() for f in self._chunks[0].points)
        ):
            chunk = self._chunks.popleft()
            _load(self._stage, {"metric_history": [p for f in chunk.points for p in f.result()]})
            if chunk.new:
                self._look(chunk.run_ids)
        while self._looks and (all_of_it or self._looks[0][1].done()):
            run_ids, found = self._looks.popleft()
            self._looked.update(run_ids)
            for run in found.result():
                run_id = run["info"]["run_id"]
                if run_id in self.seen.digests:
                    if self.seen.digests[run_id] == _digest(run):
                        self._standing.add(run_id)
                    else:
                        self._moved[run_id] = run

    def _look(self, run_ids: Sequence[str]) -> None:
        self._looks.append((run_ids, self._pool.submit(self._reader.look_up, self.seen, run_ids)))

    def looked_at(self, run_ids: Sequence[str]) -> tuple[set[str], dict[str, dict[str, Any]]]:
        """Which of the runs are as they were before their history was read, and the others, if they are there.

        A look is good for one answer.
        """
        for chunk in _chunks([r for r in run_ids if r not in self._looked], RUNS_A_REQUEST):
            self._look(chunk)
        self.load(all_of_it=True)
        standing, moved = self._standing, {r: self._moved[r] for r in run_ids if r in self._moved}
        self._looked, self._standing, self._moved = set(), set(), {}
        return standing, moved


class _Seen:
    """What was read of each run, as a digest, and where it lives."""

    def __init__(self) -> None:
        self.digests: dict[str, bytes] = {}
        self.experiments: dict[str, str] = {}

    def add(self, stage: Stage, runs: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
        """Stage the rows of runs that were not seen yet; a run that cannot be mirrored exactly is refused.

        Returns the keys of the metrics of each that was staged.
        """
        keys: dict[str, list[str]] = {}
        rows: Rows = {table: [] for table in ("runs", "tags", "params", "latest_metrics")}
        refused = []
        for run in runs:
            run_id = run["info"]["run_id"]
            if run_id in self.digests:
                continue
            self.digests[run_id] = _digest(run)
            self.experiments[run_id] = run["info"]["experiment_id"]
            try:
                mine = _rows(run)
            except (KeyError, TypeError, ValueError) as error:
                refused.append((run_id, f"the server's answer cannot be read: {error!r}"))
                mine = {"runs": [_bare(run_id, run)]}
            keys[run_id] = [point[1] for point in mine.get("latest_metrics", [])]
            for table, values in mine.items():
                rows[table] += values
        _load(stage, rows)
        stage.refuse(refused)
        return keys

    def drop(self, run_ids: Iterable[str]) -> None:
        """Forget runs, so that they can be added again."""
        for run_id in run_ids:
            self.digests.pop(run_id, None)


def _rows(run: dict[str, Any]) -> Rows:
    info, data = run["info"], run.get("data", {})
    run_id = info["run_id"]
    return {
        "runs": [
            (
                run_id, info.get("run_name"), None, None, None, info.get("user_id"), info["status"],
                int(info["start_time"]), _time(info.get("end_time")), None, info["lifecycle_stage"],
                info.get("artifact_uri") or None, int(info["experiment_id"]), None,
            )
        ],
        "tags": [(run_id, t["key"], t.get("value")) for t in data.get("tags", [])],
        "params": [(run_id, p["key"], p["value"]) for p in data.get("params", [])],
        "latest_metrics": [_point(run_id, m) for m in data.get("metrics", [])],
    }  # fmt: skip


def _bare(run_id: str, run: dict[str, Any]) -> tuple[Any, ...]:
    """A run of which only its existence is known: listed, so that it is not taken for gone."""
    values: dict[str, Any] = {"run_uuid": run_id, "experiment_id": int(run["info"]["experiment_id"])}
    return tuple(values.get(c) for c in MIRROR["runs"])


def _point(run_id: str, metric: Mapping[str, Any]) -> tuple[Any, ...]:
    value = float(metric["value"])  # JSON has no NaN: it comes as a string or as the bare word
    return (run_id, metric["key"], value, int(metric["timestamp"]), int(metric.get("step", 0)), math.isnan(value))


def _time(value: object) -> int | None:
    return int(str(value)) or None if value is not None else None


def _digest(run: dict[str, Any]) -> bytes:
    """Of what is mirrored, whatever the order in which it was sent."""
    data = run.get("data", {})
    parts = [sorted(repr(sorted(x.items())) for x in data.get(k, [])) for k in ("tags", "params", "metrics")]
    return blake2b(repr((sorted(run["info"].items()), parts)).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _load(stage: Stage, rows: Rows) -> None:
    import pyarrow as pa

    kinds = {"BIGINT": pa.int64(), "DOUBLE": pa.float64(), "BOOLEAN": pa.bool_(), "VARCHAR": pa.string()}
    for table, values in rows.items():
        if not values:
            continue
        arrays = {
            name: pa.array(column, kinds[column_type(table, name)])
            for name, column in zip(MIRROR[table], zip(*values, strict=True), strict=True)
        }
        stage.load(table, pa.table(arrays))


def _chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


@contextmanager
def _pool(threads: int = WORKERS) -> Iterator[ThreadPoolExecutor]:
    """A few threads, each with its connection; when the block fails, what was not begun is not done."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
