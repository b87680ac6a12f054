"""What an estimate is made of: a model's work, counted on meta tensors in seconds, whatever its size.

Owns the count of operators and of the largest activation; operations and bytes are :mod:`.counting`'s. torch is
imported only inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwbench_mlflow.estimate import EstimatedModel, Work
from hwbench_mlflow.model import Workload
from hwbench_mlflow.workloads.build import config_digest, counted
from hwbench_mlflow.workloads.counting import BYTES_PER_ELEMENT, meta_inputs
from hwbench_mlflow.workloads.resolve import resolve

if TYPE_CHECKING:
    import torch

    from hwbench_mlflow.workloads.base import InputSpec


def count_work(workload: Workload) -> tuple[Workload, EstimatedModel, Work]:
    """The workload with its defaults, the model and its work. No weights are loaded and none are asked for.

    Raises what :func:`.resolve.resolve` raises, and BenchmarkFailed for what cannot run on meta tensors.
    """
    resolved = resolve(workload)
    module, counts = counted(resolved)
    operators, elements = _operators(module, resolved.input_spec)
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
        operators=operators,
        activation_bytes=elements * BYTES_PER_ELEMENT[workload.precision],
    )
    return resolved.workload, model, work


def _operators(module: torch.nn.Module, input_spec: tuple[InputSpec, ...]) -> tuple[int, int]:
    """Operators of one forward pass that make a tensor of their own (views make none), and the elements of the
    largest one."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
        operators = 0
        largest = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            if not func.is_view and func.namespace == "aten" and isinstance(made, torch.Tensor | tuple | list):
                outputs = [made] if isinstance(made, torch.Tensor) else [t for t in made if isinstance(t, torch.Tensor)]
                if outputs:
                    Count.operators += 1
                    Count.largest = max(Count.largest, sum(t.numel() for t in outputs))
            return made

    with torch.inference_mode(), Count():  # type: ignore[no-untyped-call]
        module(**meta_inputs(input_spec))
    return Count.operators, Count.largest
