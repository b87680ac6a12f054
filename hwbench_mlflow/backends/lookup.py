"""Finding a backend by its name.

Owns the table of what hwbench ships. Entry points of the group ``hwbench.backends`` come first, so
that another distribution can add a platform; the table serves a source tree that is not installed.
Imports no backend until it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.metadata

from hwbench_mlflow.backends.base import Backend
from hwbench_mlflow.errors import UsageError

GROUP = "hwbench.backends"

BUILT_IN: dict[str, str] = {
    "cpu": "hwbench_mlflow.backends.cpu:CpuBackend",
    "cuda": "hwbench_mlflow.backends.cuda:CudaBackend",
    "rocm": "hwbench_mlflow.backends.rocm:RocmBackend",
    "mps": "hwbench_mlflow.backends.mps:MpsBackend",
    "openvino": "hwbench_mlflow.backends.openvino:OpenvinoBackend",
    "qnn": "hwbench_mlflow.backends.qnn:QnnBackend",
    "webnn": "hwbench_mlflow.backends.webnn:WebnnBackend",
    "webgpu": "hwbench_mlflow.backends.webgpu:WebgpuBackend",
    "fake": "hwbench_mlflow.backends.fake:FakeBackend",
}
"""Name -> ``package.module:Class``. The same names as the entry points in ``pyproject.toml``."""


def targets() -> dict[str, str]:
    """Every backend that can be named here: name -> ``package.module:Class``.

    What hwbench ships cannot be replaced by another distribution's entry point of the same name.
    """
    found = {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}
    return found | BUILT_IN


def find(name: str) -> Backend:
    """The backend of that name, or of a ``package.module:Class`` given in its place.

    Raises :class:`UsageError` for a name that is not known and for a target that is no backend.
    """
    known = targets()
    if ":" in name:
        return load(name)
    if name not in known:
        raise UsageError(f"no backend is called {name!r}", remedy=f"Choose one of: {', '.join(sorted(known))}")
    return load(known[name])


def load(target: str) -> Backend:
    """Import ``package.module:Class`` and make the backend."""
    module_name, _, class_name = target.partition(":")
    if not module_name or not class_name:
        raise UsageError(f"{target!r} does not name a backend", remedy="Write it as package.module:Class")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"cannot import the backend {target!r}: no module named {error.name!r}") from error
    factory = getattr(module, class_name, None)
    if not isinstance(factory, type):
        raise UsageError(f"{module_name!r} has no class {class_name!r}")
    missing = [m for m in ("platform", "probe", "open", "calibrate") if not hasattr(factory, m)]
    if missing:
        raise UsageError(f"{target!r} is no backend: it lacks {', '.join(missing)}")
    made: Backend = factory()
    return made
