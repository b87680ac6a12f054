"""Building a model: with its published weights, or with seeded ones from its real config.

Owns what stands between a resolved name and a module in host memory. torch and transformers are imported
only inside functions. Loads safetensors only; never runs a repository's code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.errors import BenchmarkFailed, UsageError
from hwbench_mlflow.model import FailureCategory, ModelInfo, WeightsPolicy, WeightsSource, Workload
from hwbench_mlflow.workloads import generation, hub
from hwbench_mlflow.workloads.base import LoadedModel
from hwbench_mlflow.workloads.counting import Counts, count
from hwbench_mlflow.workloads.memory import Admit
from hwbench_mlflow.workloads.resolve import ResolvedModel, resolve

if TYPE_CHECKING:
    import torch

# Of a config, what says how it was saved and not what the model is.
_BOOKKEEPING = frozenset(
    (
        "_name_or_path",
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "auto_map",
        "id2label",
        "label2id",
    )
)


class _Incomplete(Exception):
    """A checkpoint that does not hold every weight of the model."""


def load(workload: Workload, *, ask_hub: bool = True, admit: Admit | None = None) -> LoadedModel:
    """Build the model of ``workload`` at fp32 in eval mode, without gradients, in host memory.

    With policy ``pretrained``, :class:`BenchmarkFailed` (``hub_unreachable``) if the cache and the hub have no
    safetensors; with ``auto``, seeded random weights then stand in and ``warnings`` says so. The same seed and
    library versions give the same weights in every process. ``ask_hub=False`` leaves the network alone. ``admit``
    is asked when the model is counted and nothing of it is in memory yet; what it raises passes through.
    """
    return build(resolve(workload), ask_hub=ask_hub, admit=admit)


def build(resolved: ResolvedModel, *, ask_hub: bool = True, admit: Admit | None = None) -> LoadedModel:
    """:func:`load` for a request that is already resolved."""
    policy = resolved.workload.weights
    if policy is WeightsPolicy.RANDOM:
        return _random(resolved, admit)
    weights = locate_weights(resolved, ask_hub=ask_hub)
    reason = weights.reason
    if weights.folder is not None:
        try:
            return _pretrained(resolved, weights, admit)
        except _Incomplete as error:
            reason = str(error)
    if policy is WeightsPolicy.PRETRAINED:
        raise BenchmarkFailed(
            f"no pretrained weights for '{resolved.name}': {reason}",
            FailureCategory.HUB_UNREACHABLE,
            remedy="Fill the Hugging Face cache or name a folder with safetensors, or use --weights random",
        )
    seed = resolved.workload.weights_seed
    warning = f"'{resolved.name}' runs with random weights (seed {seed}): {reason}"
    return replace(_random(resolved, admit), warnings=(warning,))


def count_on_meta(resolved: ResolvedModel) -> Counts:
    """What the model must compute and hold, by its architecture alone: no weights, no memory, any size of model."""
    return counted(resolved)[1]


def counted(resolved: ResolvedModel) -> tuple[torch.nn.Module, Counts]:
    """The module on the meta device, and :func:`count_on_meta` of it."""
    module = _meta_module(resolved, _config(resolved, resolved.spec.config))
    return module, _count(resolved, module)


def locate_weights(resolved: ResolvedModel, *, ask_hub: bool = True) -> hub.Weights:
    """Where the model's safetensors are: its folder, the local cache, or the hub (which fills the cache).

    Light, so that a parent process can fetch what its workers will read. ``folder`` is None, with the reason,
    if they are nowhere; with policy ``random`` the network is never asked.
    """
    if resolved.folder is not None:
        return replace(hub.in_folder(resolved.folder), origin=resolved.source)
    repos = resolved.spec.hub_ids
    if not repos:
        return hub.Weights(None, reason="it has no name on the hub")
    found = hub.cached_weights(repos)
    if found.folder is not None or not ask_hub or resolved.workload.weights is WeightsPolicy.RANDOM:
        return found
    try:
        return hub.download_weights(repos[0])
    except hub.Unreachable as error:
        return hub.Weights(None, reason=f"{found.reason}, and {error}")


def with_digest(loaded: LoadedModel) -> LoadedModel:
    """The same model with ``info.weights_sha256`` filled. Call it while the module is as it was loaded."""
    return replace(loaded, info=replace(loaded.info, weights_sha256=weights_digest(loaded.module)))


def weights_digest(module: torch.nn.Module) -> str:
    """SHA-256 over the state dict in name order: name, dtype, shape, bytes. About 0.3 s for 440 MB with SHA-NI."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(generation.raw(module).state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a resolved config, without what says only how it was saved."""
    facts = {k: v for k, v in config.items() if k not in _BOOKKEEPING}
    facts["num_labels"] = len(config.get("id2label") or ()) or config.get("num_labels")
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _config(resolved: ResolvedModel, facts: Mapping[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    # A published config may lack its model_type (prajjwal1/bert-tiny does); a repository's own code stays out.
    facts = {"model_type": resolved.spec.config["model_type"], **facts}
    facts.pop("auto_map", None)
    model_type = facts.pop("model_type")
    if model_type not in CONFIG_MAPPING:
        raise UsageError(
            f"'{resolved.name}' is of type '{model_type}', which transformers does not have built in",
            remedy="hwbench never runs a repository's own code",
        )
    try:
        config = CONFIG_MAPPING[model_type].from_dict(dict(facts))
    except (TypeError, ValueError) as error:
        line = " ".join(str(error).split())
        raise UsageError(f"transformers refuses the config of '{resolved.name}': {line}") from error
    parts: tuple[Any, ...] = (config, getattr(config, "text_config", None))
    for part in parts:
        if hasattr(part, "use_cache"):
            part.use_cache = False  # one forward pass has no use for a key-value cache
    return config


def _meta_module(resolved: ResolvedModel, config: Any) -> torch.nn.Module:
    import torch
    import transformers

    auto_class = getattr(transformers, resolved.spec.auto_class)
    try:
        with torch.device("meta"):
            module: torch.nn.Module = auto_class.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        # Whatever a config of no sense makes of a constructor; transformers checks few of its values.
        line = " ".join(str(error).split())[:300]
        raise UsageError(f"{resolved.spec.auto_class} cannot build '{resolved.name}': {line}") from error
    return module.eval().requires_grad_(False)


def _random(resolved: ResolvedModel, admit: Admit | None = None) -> LoadedModel:
    import torch

    config = _config(resolved, resolved.spec.config)
    module: Any = _meta_module(resolved, config)
    counts = _count(resolved, module)
    if admit is not None:
        admit(resolved.name, counts)
    # Built on meta and initialised once, a third of the time of from_config, which torch's own initialisers
    # go through first. to_empty unties what is tied.
    module.to_empty(device="cpu")
    for tensor in _tensors(module).values():
        tensor.fill_(_unset(tensor))
    module.tie_weights()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(resolved.workload.weights_seed)
        module.initialize_weights()
        left = [name for name, tensor in _tensors(module).items() if _is_unset(tensor)]
        if left:
            # What only a constructor sets (CLIP's scale, a weight-normed convolution): else it would be whatever the
            # memory held. Such models are small: built a second time, for these few tensors.
            torch.manual_seed(resolved.workload.weights_seed)
            made = _tensors(type(module)(config))
            with torch.no_grad():
                for name in left:
                    _tensors(module)[name].copy_(made[name])
    return _loaded(resolved, module, counts, WeightsSource.RANDOM, source=resolved.source)


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


def _unset(tensor: torch.Tensor) -> float | int:
    """A value that no initialiser gives."""
    return float("nan") if tensor.is_floating_point() else 77


def _is_unset(tensor: torch.Tensor) -> bool:
    # Of integers, a table of positions holds every value once: only all of them alike is no table.
    return bool(tensor.isnan().any()) if tensor.is_floating_point() else bool((tensor == 77).all())


def _pretrained(resolved: ResolvedModel, weights: hub.Weights, admit: Admit | None) -> LoadedModel:
    import torch
    import transformers
    from safetensors import SafetensorError

    assert weights.folder is not None
    facts = resolved.spec.config
    path = weights.folder / "config.json"
    if path.is_file():
        facts = json.loads(path.read_text(encoding="utf-8"))
    config = _config(resolved, facts)
    counts = _count(resolved, _meta_module(resolved, config))
    if admit is not None:
        admit(resolved.name, counts)
    auto_class = getattr(transformers, resolved.spec.auto_class)
    try:
        with _quiet():
            module, report = auto_class.from_pretrained(
                weights.folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (SafetensorError, RuntimeError, OSError, ImportError) as error:  # ImportError: a backbone of timm's
        line = " ".join(str(error).split())[:200]
        raise _Incomplete(f"the safetensors cannot be loaded ({line})") from error
    lacking = sorted([*report["missing_keys"], *(str(k) for k in report["mismatched_keys"])])
    if lacking:
        # Partly random weights are not pretrained ones.
        raise _Incomplete(f"the checkpoint lacks {len(lacking)} of the model's weights ({lacking[0]}, ...)")
    module = module.eval().requires_grad_(False)
    return _loaded(resolved, module, counts, WeightsSource.PRETRAINED, source=weights.origin)


def _count(resolved: ResolvedModel, module: torch.nn.Module) -> Counts:
    work = resolved.workload
    return count(
        generation.writer(module, work),
        resolved.input_spec,
        resolved.spec.output_names,
        work.precision,
        passes=generation.weight_passes(work),
    )


def _loaded(
    resolved: ResolvedModel, module: torch.nn.Module, counts: Counts, weights: WeightsSource, *, source: str
) -> LoadedModel:
    config: Any = module.config
    info = ModelInfo(
        name=resolved.name,
        architecture=type(module).__name__,
        task=resolved.spec.task,
        source=source,
        config_sha256=config_digest(config.to_dict()),
        parameters=counts.parameters,
        flops=counts.flops,
        min_bytes=counts.min_bytes,
        weight_bytes=counts.weight_bytes,
        weights_source=weights,
        weights_sha256="",
    )
    return LoadedModel(
        module=generation.writer(module, resolved.workload),
        workload=resolved.workload,
        info=info,
        input_spec=resolved.input_spec,
        output_names=tuple(counts.outputs),
        attention=getattr(config, "_attn_implementation", None),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' loading report and progress bars: what matters of them is in the loading info."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # untyped
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
