"""On the path of a test's fleet nodes alone: their runner answers at once, with results that are simulated and say so.

No product code looks for this: Python imports ``sitecustomize`` by itself where it is on the path.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any

AFTER = "hwbench_mlflow.cli.fleet_cell"
"""When a node imports this, its runner is replaced."""


class Replacing(importlib.abc.MetaPathFinder):
    """Finds that one module as everybody would, and puts our runner in place when it is loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != AFTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            from tests.fleets import quick_runner

            quick_runner()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Replacing())
