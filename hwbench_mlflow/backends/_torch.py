"""A torch model on one device: what cpu, cuda, rocm and mps have in common.

Owns placing a module, the precision that is in force, staged inputs, torch's errors and the matrix
products of probe and calibration. Imports torch only inside functions; knows no platform by name.
"""

from __future__ import annotations

import contextlib
import copy
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from hwbench_mlflow.backends._reference import (
    check_matrices,
    check_slots,
    example_arrays,
    failed_check,
    judge_product,
    one_line,
    sized_spec,
)
from hwbench_mlflow.errors import BenchmarkFailed, HwbenchError
from hwbench_mlflow.model import (
    CompileMode,
    Device,
    DeviceCheck,
    ExecutionWitness,
    FailureCategory,
    Precision,
    SessionFacts,
    Workload,
)

if TYPE_CHECKING:
    import torch

    from hwbench_mlflow.backends._reference import Array
    from hwbench_mlflow.workloads.base import LoadedModel

PrecisionKnobs = Mapping[str, tuple[Any, str, Any]]
"""Name -> (object, attribute, value that means plain fp32)."""


def torch_dtype(precision: Precision) -> torch.dtype:
    """torch's name of a precision. Raises :class:`BenchmarkFailed` for one that it is not asked to compute in."""
    import torch

    known = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
    if precision not in known:
        raise BenchmarkFailed(
            f"torch computes in {', '.join(known)} here, not in {precision}",
            FailureCategory.UNSUPPORTED_OPERATOR,
            remedy="Ask for --precision fp32, or for --hardware qnn",
        )
    return known[precision]


def translate(error: Exception) -> HwbenchError | None:
    """One of torch's errors in hwbench's words; None if it is not of a kind we know."""
    import torch

    text = one_line(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return BenchmarkFailed(
            f"out of memory: {text}", FailureCategory.OUT_OF_MEMORY, remedy="Take a smaller batch, length or model"
        )
    if isinstance(error, NotImplementedError) or "not implemented for" in text:
        return BenchmarkFailed(f"the device lacks an operation: {text}", FailureCategory.UNSUPPORTED_OPERATOR)
    return None


@contextlib.contextmanager
def torch_errors() -> Iterator[None]:
    """Raise torch's errors as hwbench's where they mean something; others pass through unchanged."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's OutOfMemoryError and NotImplementedError are RuntimeErrors
        if (known := translate(error)) is not None:
            raise known from error
        raise


def _closed(**_inputs: object) -> NoReturn:
    raise BenchmarkFailed("the session is closed", FailureCategory.USAGE)


class TorchSession:
    """A module on one device. A platform's file adds its synchronisation, identity and witness."""

    def __init__(
        self,
        *,
        module: torch.nn.Module,
        model: LoadedModel,
        workload: Workload,
        device: Device,
        torch_device: torch.device,
        load_ns: int,
    ) -> None:
        self._module = module
        self._call: Callable[..., Any] = module
        self._output_names = model.output_names
        self._spec = sized_spec(model.input_spec, workload.batch_size)
        self._device = device
        self._torch_device = torch_device
        self._dtype = torch_dtype(workload.precision)
        self._load_ns = load_ns
        self._compile_ns: int | None = None
        self._staged: list[dict[str, torch.Tensor]] = []
        self.properties: dict[str, str] = {}

    def stage(self, slots: Sequence[Mapping[str, Array]]) -> None:
        """Copy the input sets to the device; floating inputs take the model's precision."""
        check_slots(self._spec, slots)
        with torch_errors():
            self._staged = [self._to_device(slot) for slot in slots]
        self.synchronize()

    def _to_device(self, slot: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        import torch

        placed = {}
        for name, array in slot.items():
            tensor = torch.from_numpy(array.copy())
            dtype = self._dtype if tensor.is_floating_point() else tensor.dtype
            placed[name] = tensor.to(self._torch_device, dtype)
        return placed

    def run(self, slot: int) -> object:
        """One forward pass. Nothing but the call is here: the clock is running."""
        try:
            return self._call(**self._staged[slot])
        except (RuntimeError, MemoryError) as error:
            if (known := translate(error)) is not None:
                raise known from error
            raise

    def synchronize(self) -> None:
        """The CPU computes in the caller's thread: everything has finished when :meth:`run` returns."""

    def fetch(self, output: object) -> dict[str, Array]:
        """The compared outputs on the host. An output that is not on the device means a fallback."""
        import torch

        fetched: dict[str, Array] = {}
        for name in self._output_names:
            tensor = output[name] if isinstance(output, Mapping) else getattr(output, name)
            if not same_device(tensor.device, self._torch_device):
                raise BenchmarkFailed(
                    f"output {name!r} is on {tensor.device}, not on {self._torch_device}",
                    FailureCategory.FALLBACK_DETECTED,
                )
            with torch_errors():
                # A copy: on the CPU the array would otherwise share memory with the session's tensor.
                fetched[name] = tensor.detach().to("cpu", torch.float32).numpy().copy()
        return fetched

    def facts(self) -> SessionFacts:
        """Device and precision as read from the placed parameters, not as asked for."""
        import torch

        return SessionFacts(
            device=self.granted_device(),
            effective_precision=effective_precision(self._module),
            threads=torch.get_num_threads(),
            load_ns=self._load_ns,
            compile_ns=self._compile_ns,
            properties=dict(self.properties),
        )

    def granted_device(self) -> Device:
        """The device the parameters are on. Raises if it is not the one that was asked for."""
        placed = parameter_devices(self._module)
        if not placed or not all(same_device(where, self._torch_device) for where in placed):
            listed = ", ".join(sorted(str(where) for where in placed)) or "nowhere"
            raise BenchmarkFailed(
                f"the parameters are on {listed}, not on {self._torch_device}", FailureCategory.FALLBACK_DETECTED
            )
        return self._device

    def witness_begin(self) -> None:
        """Nothing to read before: the worker keeps the CPU's clocks itself."""

    def witness_end(self, wall_ns: int, process_cpu_ns: int, run_delay_ns: int | None) -> ExecutionWitness:
        """The CPU's witness is its own time: see the worker's clocks."""
        import torch

        return ExecutionWitness(
            wall_ns=wall_ns,
            process_cpu_ns=process_cpu_ns,
            run_delay_ns=run_delay_ns,
            threads=torch.get_num_threads(),
            device_identity=self.granted_device().name,
            execution_devices=tuple(sorted(str(d) for d in parameter_devices(self._module))),
            properties=dict(self.properties),
        )

    def warm_compile(self) -> None:
        """``torch.compile`` for the workload's exact shapes; the first call is what compiles."""
        import torch
        import torch._dynamo as dynamo
        from torch._dynamo.utils import counters

        refuse_disabled_compiler(dynamo.config)
        # Without a reset the graphs of an earlier session of this process would be reused, untimed.
        torch.compiler.reset()
        counters.clear()
        example = self._to_device(example_arrays(self._spec))
        begin = time.perf_counter_ns()
        try:
            with warnings.catch_warnings():
                # The compiler's own imports use what torch deprecates; nobody here can act on it.
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", FutureWarning)
                self._call = torch.compile(self._module, dynamic=False)
                self._call(**example)
        except dynamo.exc.TorchDynamoException as error:
            raise BenchmarkFailed(
                f"torch.compile failed: {one_line(error)}",
                FailureCategory.UNSUPPORTED_OPERATOR,
                remedy="It needs a C++ compiler (cpu) or triton (gpu); --compile-mode eager does without",
            ) from error
        self.synchronize()
        self._compile_ns = time.perf_counter_ns() - begin
        graphs = counters["stats"].get("unique_graphs", 0)
        if not graphs:
            raise BenchmarkFailed("torch.compile compiled no graph: it ran eagerly", FailureCategory.FALLBACK_DETECTED)
        self.properties["compile.fx_cache_hits"] = str(counters["inductor"].get("fxgraph_cache_hit", 0))
        self.properties["compile.graphs"] = str(graphs)
        self.properties["compile.graph_breaks"] = str(sum(counters["graph_break"].values()))

    def close(self) -> None:
        """Let go of the device's memory; a later run fails."""
        self._call = _closed
        self._staged = [{} for _ in self._staged] or [{}]


def refuse_disabled_compiler(config: Any) -> None:
    """Both settings make ``torch.compile`` return the eager module without a word."""
    if config.disable or config.suppress_errors:
        raise BenchmarkFailed(
            "torch.compile is disabled or told to fall back to eager by the environment",
            FailureCategory.FALLBACK_DETECTED,
            remedy="Unset TORCH_COMPILE_DISABLE, TORCHDYNAMO_DISABLE and TORCHDYNAMO_SUPPRESS_ERRORS",
        )


@contextlib.contextmanager
def open_session(
    session_class: type[TorchSession],
    device: Device,
    torch_device: torch.device,
    model: LoadedModel,
    workload: Workload,
    *,
    threads: int | None,
    knobs: PrecisionKnobs,
) -> Iterator[TorchSession]:
    """Place a copy of the model at the workload's precision and hold ``inference_mode`` open.

    ``workload`` may differ from ``model.workload`` in batch size (the scaling probe). The caller's
    model stays as it was, so a reference can be computed from it afterwards.
    """
    import torch

    precision = workload.precision
    with contextlib.ExitStack() as stack:
        if threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        stack.enter_context(torch_errors())
        if precision is Precision.FP32:
            stack.enter_context(plain_fp32(knobs))
            require_fp32_products(torch_device)
        begin = time.perf_counter_ns()
        module = place(model.module, torch_device, torch_dtype(precision))
        synchronize_device(torch_device)
        load_ns = time.perf_counter_ns() - begin
        stack.enter_context(torch.inference_mode())
        session = session_class(
            module=module, model=model, workload=workload, device=device, torch_device=torch_device, load_ns=load_ns
        )
        stack.callback(session.close)
        session.properties |= read_knobs(knobs)
        session.properties["torch.parameter_device"] = ",".join(sorted(str(d) for d in parameter_devices(module)))
        session.granted_device()
        if workload.compile_mode is CompileMode.COMPILE:
            session.warm_compile()
        yield session


def place(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """A copy of ``module`` on ``device`` at ``dtype``; the module itself where nothing would change.

    Tensors are converted one at a time (through ``deepcopy``'s memo, which also keeps tied weights
    tied), so the host never holds a second full-precision copy.
    """
    import torch

    named = [*module.parameters(), *module.buffers()]
    if device.type == "cpu" and all(t.dtype == dtype or not t.is_floating_point() for t in named):
        return module
    memo: dict[int, Any] = {}
    for tensor in named:
        moved = tensor.detach().to(device, dtype if tensor.is_floating_point() else tensor.dtype)
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        memo[id(tensor)] = torch.nn.Parameter(moved, requires_grad=False) if is_parameter else moved
    placed: torch.nn.Module = copy.deepcopy(module, memo)
    return placed


def parameter_devices(module: torch.nn.Module) -> set[torch.device]:
    """Where the parameters and buffers are."""
    return {tensor.device for tensor in (*module.parameters(), *module.buffers())}


def same_device(a: torch.device, b: torch.device) -> bool:
    """``mps`` and ``mps:0`` are the same device; ``cuda:0`` and ``cuda:1`` are not."""
    return a.type == b.type and (a.index or 0) == (b.index or 0)


def synchronize_device(device: torch.device) -> None:
    """Wait for everything submitted to ``device``."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def effective_precision(module: torch.nn.Module) -> Precision:
    """The precision of the placed parameters. Raises if they are of more than one."""
    names = {torch_dtype(p): p for p in (Precision.FP32, Precision.BF16, Precision.FP16)}
    found = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if len(found) != 1 or not found <= names.keys():
        listed = ", ".join(sorted(str(d) for d in found)) or "none"
        raise BenchmarkFailed(f"the parameters are of {listed}, not of one precision", FailureCategory.WRONG_OUTPUT)
    return names[found.pop()]


@contextlib.contextmanager
def plain_fp32(knobs: PrecisionKnobs) -> Iterator[None]:
    """Forbid TF32 and bf16 inside fp32 products; put the settings back afterwards."""
    before = {name: getattr(holder, attribute) for name, (holder, attribute, _) in knobs.items()}
    for holder, attribute, value in knobs.values():
        setattr(holder, attribute, value)
    try:
        yield
    finally:
        for name, (holder, attribute, _) in knobs.items():
            setattr(holder, attribute, before[name])


def read_knobs(knobs: PrecisionKnobs) -> dict[str, str]:
    """The settings in force, read back."""
    return {name: str(getattr(holder, attribute)) for name, (holder, attribute, _) in knobs.items()}


def require_fp32_products(device: torch.device) -> None:
    """Fail unless a product on ``device`` keeps fp32's mantissa.

    1 + 2^-12 has 12 fraction bits: fp32 holds 23, TF32 10 and bf16 7, so both round it to 1. Settings
    can lie (an environment variable may override them in the vendor's library); a product cannot.
    """
    import torch

    fine = 1.0 + 2.0**-12
    eye = torch.eye(256, dtype=torch.float32, device=device)
    observed = float((eye * fine @ eye)[7, 7].item())
    if observed != fine:
        raise BenchmarkFailed(
            f"fp32 was asked for, but TF32 or bf16 is in force: a product on {device} gave {observed!r} for {fine!r}",
            FailureCategory.FALLBACK_DETECTED,
            remedy="Unset NVIDIA_TF32_OVERRIDE, TORCH_ALLOW_TF32_CUBLAS_OVERRIDE and ONEDNN_DEFAULT_FPMATH_MODE",
        )


def check_device(
    torch_device: torch.device, device_id: str, enumerated: str, identify: Callable[[], str]
) -> DeviceCheck:
    """Execute the probe's product on the device; ``identify`` reads the identity back afterwards."""
    import torch

    a, b, reference = check_matrices()
    try:
        with torch.inference_mode():
            product = torch.tensor(a, device=torch_device) @ torch.tensor(b, device=torch_device)
            synchronize_device(torch_device)
            where = product.device
            observed: list[list[float]] = product.cpu().double().tolist()
        identity = identify()
    except RuntimeError as error:
        return failed_check(device_id, one_line(error))
    if not same_device(where, torch_device):
        return failed_check(device_id, f"the product was computed on {where}")
    return judge_product(device_id, observed, reference, identity=identity, enumerated=enumerated)


def measure_peak(torch_device: torch.device, precision: Precision, seconds: float) -> tuple[float, int, int]:
    """The best rate of square products, 2·n³ FLOPs each: (FLOP/s, n, products timed).

    A reduced precision shares the time with fp32, and the better counts: a model asked for at a
    precision that the device lacks may be computed in fp32, and a peak must bound that too.
    """
    precisions = dict.fromkeys((precision, Precision.FP32))
    found = [_peak_at(torch_device, torch_dtype(p), seconds / len(precisions)) for p in precisions]
    rate, dim, _ = max(found)
    return rate, dim, sum(timed for _, _, timed in found)


def _peak_at(torch_device: torch.device, dtype: torch.dtype, seconds: float) -> tuple[float, int, int]:
    """``n`` doubles until one product takes 5 ms, so that launching it costs less than a thousandth, and at
    least to 1024: on a busy machine a small product can take that long by being interrupted.

    The best single product counts, of any size and of either layout of the second factor (a linear
    layer's is transposed): a peak is a maximum.
    """
    import torch

    best, best_dim, timed, dim, settled = 0.0, 0, 0, 256, False
    with torch_errors(), torch.inference_mode():
        deadline = time.perf_counter_ns() + int(seconds * 1e9)
        left, right = _factors(torch_device, dtype, dim)
        while timed < 2 or time.perf_counter_ns() < deadline:
            factor = right.t() if timed % 2 else right
            begin = time.perf_counter_ns()
            torch.mm(left, factor)
            synchronize_device(torch_device)
            took = time.perf_counter_ns() - begin
            timed += 1
            rate = 2.0 * dim**3 / (took / 1e9)
            if rate > best:
                best, best_dim = rate, dim
            if not settled and timed % 2 == 0:
                settled = (took >= 5_000_000 and dim >= 1024) or dim >= 16_384
                dim = dim if settled else dim * 2
                left, right = _factors(torch_device, dtype, dim)
    return best, best_dim, timed


def _factors(torch_device: torch.device, dtype: torch.dtype, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices that have been multiplied once: the first product of a size pays for its kernel."""
    import torch

    left, right = (torch.randn(dim, dim, device=torch_device).to(dtype) for _ in range(2))
    torch.mm(left, right)
    torch.mm(left, right.t())
    synchronize_device(torch_device)
    return left, right
