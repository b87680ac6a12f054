"""What an estimate is made of: a model's work, counted on meta tensors in seconds, whatever its size.

Owns what an estimate takes of :mod:`.counting`'s counts. Imports no torch.
"""

from __future__ import annotations

from typing import Any

from hwbench_mlflow.estimate import EstimatedModel, Work
from hwbench_mlflow.model import Workload
from hwbench_mlflow.workloads.build import config_digest, counted
from hwbench_mlflow.workloads.resolve import resolve


def count_work(workload: Workload) -> tuple[Workload, EstimatedModel, Work]:
    """The workload with its defaults, the model and its work. No weights are loaded and none are asked for.

    Raises what :func:`.resolve.resolve` raises, and BenchmarkFailed for what cannot run on meta tensors.
    """
    resolved = resolve(workload)
    module, counts = counted(resolved)
    config: Any = module.config
    model = EstimatedModel(
        name=resolved.name,
        architecture=type(module).__name__,
        task=resolved.spec.task,
        source=resolved.source,
        config_sha256=config_digest(config.to_dict()),
    )
    work = Work(
        parameters=counts.parameters,
        flops=counts.flops,
        min_bytes=counts.min_bytes,
        weight_bytes=counts.weight_bytes,
        operators=counts.operators,
        activation_bytes=counts.activation_bytes,
    )
    return resolved.workload, model, work
