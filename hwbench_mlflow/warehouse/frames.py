"""Results as a pandas DataFrame, for notebooks: published ones, verified unless others are asked for by name."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench_mlflow.errors import StoreError, UsageError
from hwbench_mlflow.model import VerdictState
from hwbench_mlflow.warehouse import database
from hwbench_mlflow.warehouse.published import DEFAULT_PUBLISHED, is_published, open_published

if TYPE_CHECKING:
    import pandas as pd


class SimulatedResultsWarning(UserWarning):
    """The frame holds numbers that did not come from the hardware that they name."""


class UngatedResultsWarning(UserWarning):
    """The frame was read from the warehouse because nothing is published: no gate has looked at it."""


_SQL = """
    SELECT pr.*, m.* EXCLUDE (model_id, parameter_count), hp.hardware_type, hp.vendor, hp.pci_id,
           hp.memory_bytes AS device_memory_bytes, hp.emulation_reason
    FROM performance_results pr JOIN models m USING (model_id) JOIN hardware_platforms hp USING (hardware_id)
    WHERE pr.verdict IN (SELECT unnest(?::VARCHAR[])) ORDER BY pr.created_at, pr.run_id"""


_PUBLISHED = {"verified": "real_results", "simulated": "simulated_results"}


def load_results(db: str | Path | None = None, *, include: Collection[str] = ("verified",)) -> pd.DataFrame:
    """One row a result, oldest first, with its model and its hardware; the columns of ``performance_results``.

    ``db`` is a published file or a warehouse. By default it is ``published.duckdb``; where there is none it is
    ``hwbench.duckdb``, and an :class:`UngatedResultsWarning` says so. A published file holds verified and simulated
    results only. ``include`` names the verdicts wanted: ``verified``, ``unverified``, ``simulated``,
    ``contradicted``. If any row is simulated, a :class:`SimulatedResultsWarning` says how many; the column
    Units are in the names, times are UTC, unknown values are NaN, NaT or None. Verdicts are those of the last
    ``hwbench gate``, or of the last ``hwbench sync`` in a warehouse. Raises
    :class:`~hwbench_mlflow.errors.UsageError` for another verdict, StoreError for a file that is neither,
    :class:`~hwbench_mlflow.errors.Refused` for a publication that was edited.
    """
    import duckdb

    wanted = [include] if isinstance(include, str) else list(include)
    unknown = sorted(set(wanted) - set(VerdictState))
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no verdict", remedy=f"One of {', '.join(VerdictState)}")
    path = _default() if db is None else Path(db)
    try:
        frame = _published(path, wanted) if is_published(path) else _warehouse(path, wanted)
    except duckdb.Error as error:
        raise StoreError(*database.explain(path, error)) from error
    simulated = int(frame["is_simulated"].sum())
    if simulated:
        text = f"{simulated} of {len(frame)} results are simulated: they did not come from the hardware they name"
        warnings.warn(text, SimulatedResultsWarning, stacklevel=2)
    return frame


def load_estimates(db: str | Path | None = None) -> pd.DataFrame:
    """One row a roofline estimate, oldest first; the columns of ``estimates``. Nothing in it was measured.

    ``db`` as in :func:`load_results`. A :class:`SimulatedResultsWarning` says how many there are. Raises the same.
    """
    import duckdb

    path = _default() if db is None else Path(db)
    sql = "SELECT * FROM estimates WHERE verdict = 'simulated' ORDER BY estimated_at, run_id"
    try:
        if is_published(path):
            with open_published(path) as found:
                frame: pd.DataFrame = found.connection.execute(sql).df()
        else:
            with database.reader(path) as connection:
                frame = connection.execute(sql).df()
    except duckdb.Error as error:
        raise StoreError(*database.explain(path, error)) from error
    if len(frame):
        text = f"{len(frame)} roofline estimates: nothing was measured on the hardware that they name"
        warnings.warn(text, SimulatedResultsWarning, stacklevel=2)
    return frame


def _default() -> Path:
    if DEFAULT_PUBLISHED.exists():
        return DEFAULT_PUBLISHED
    path = Path("hwbench.duckdb")
    if path.exists():
        text = f"nothing is published: these results are {path}'s, which no gate has passed; run `hwbench gate`"
        warnings.warn(text, UngatedResultsWarning, stacklevel=3)
    return path


def _warehouse(path: Path, wanted: list[str]) -> pd.DataFrame:
    with database.reader(path) as connection:
        frame: pd.DataFrame = connection.execute(_SQL, [wanted]).df()
    return frame


def _published(path: Path, wanted: list[str]) -> pd.DataFrame:
    other = sorted(set(wanted) - _PUBLISHED.keys())
    if other:
        raise UsageError(
            f"{path} is published: it holds no {other[0]} results",
            remedy="Name the warehouse, or ask for its quarantine",
        )
    sql = (
        " UNION ALL ".join(f"FROM {_PUBLISHED[name]}" for name in dict.fromkeys(wanted)) or "FROM real_results LIMIT 0"
    )
    with open_published(path) as found:
        frame: pd.DataFrame = found.connection.execute(f"SELECT * FROM ({sql}) ORDER BY created_at, run_id").df()  # noqa: S608
    return frame
