"""What a required rule must be, as a type: for the tables of :mod:`.pins`."""

from __future__ import annotations

from typing import NamedTuple

from hwbench_mlflow.rules import RuleKind

ROW, TABLE = RuleKind.ROW, RuleKind.TABLE


class Pin(NamedTuple):
    """What a required rule must be."""

    type: str
    columns: tuple[str, ...]
    kind: RuleKind
    digest: str
