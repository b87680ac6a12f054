"""Benchmarks of models on hardware, whose numbers can be trusted."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_estimates", "load_results"]

_LAZY = dict.fromkeys(("load_estimates", "load_results"), "hwbench_mlflow.warehouse.frames")
"""By name and imported on first use: every module of the package imports this one, and nothing heavy with it."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
