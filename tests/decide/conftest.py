"""The gate's warehouse, for what is concluded from what it lets through."""

from tests.gates.conftest import db, lab, synced
from tests.warehouse.conftest import empty_store

__all__ = ["db", "empty_store", "lab", "synced"]
