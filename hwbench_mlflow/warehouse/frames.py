"""Results as a pandas DataFrame, for notebooks: verified ones, unless others are asked for by name."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench_mlflow.errors import StoreError, UsageError
from hwbench_mlflow.model import VerdictState
from hwbench_mlflow.warehouse import database

if TYPE_CHECKING:
    import pandas as pd


class SimulatedResultsWarning(UserWarning):
    """The frame holds numbers that did not come from the hardware that they name."""


_SQL = """
    SELECT pr.*, m.* EXCLUDE (model_id, parameter_count), hp.hardware_type, hp.vendor, hp.pci_id,
           hp.memory_bytes AS device_memory_bytes, hp.emulation_reason
    FROM performance_results pr JOIN models m USING (model_id) JOIN hardware_platforms hp USING (hardware_id)
    WHERE pr.verdict IN (SELECT unnest(?::VARCHAR[])) ORDER BY pr.created_at, pr.run_id"""


def load_results(db: str | Path = "hwbench.duckdb", *, include: Collection[str] = ("verified",)) -> pd.DataFrame:
    """One row a result, oldest first, with its model and its hardware; the columns of ``performance_results``.

    ``include`` names the verdicts wanted: ``verified``, ``unverified``, ``simulated``, ``contradicted``. If any row is
    simulated, a :class:`SimulatedResultsWarning` says how many; the column ``is_simulated`` says which. Units are in
    the names, times are UTC, unknown values are NaN, NaT or None. Verdicts are those of the last ``hwbench sync``.
    Raises :class:`~hwbench_mlflow.errors.UsageError` for another verdict, StoreError for a file that is no warehouse.
    """
    import duckdb

    wanted = [include] if isinstance(include, str) else list(include)
    unknown = sorted(set(wanted) - set(VerdictState))
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no verdict", remedy=f"One of {', '.join(VerdictState)}")
    path = Path(db)
    try:
        with database.reader(path) as connection:
            frame: pd.DataFrame = connection.execute(_SQL, [wanted]).df()
    except duckdb.Error as error:
        raise StoreError(*database.explain(path, error)) from error
    simulated = int(frame["is_simulated"].sum())
    if simulated:
        text = f"{simulated} of {len(frame)} results are simulated: they did not come from the hardware they name"
        warnings.warn(text, SimulatedResultsWarning, stacklevel=2)
    return frame
