"""What the local Hugging Face cache has, and a bounded attempt at the hub for what it lacks.

Owns every network access of the workloads and the rule that weights are safetensors, never pickles.
Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REACH_SECONDS = 4.0
"""How long the hub has to answer before it counts as unreachable; huggingface_hub's own retries take over 20 s."""

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True, slots=True)
class Weights:
    """Where safetensors weights are. ``folder`` is None if there are none, and ``reason`` says why."""

    folder: Path | None
    origin: str = ""
    reason: str = ""


class Unreachable(Exception):
    """The hub was not asked, did not answer, or does not have it. ``str`` is the reason, half a sentence."""


def in_folder(folder: Path) -> Weights:
    """Weights in a local folder or a snapshot of the cache; every shard that an index names must be there."""
    if (folder / SINGLE).is_file():
        return Weights(folder)
    if (folder / INDEX).is_file():
        missing = [name for name in _shards(folder / INDEX) if not (folder / name).is_file()]
        if not missing:
            return Weights(folder)
        return Weights(None, reason=f"the shard {missing[0]} is missing")
    if any((folder / name).is_file() for name in PICKLES):
        return Weights(None, reason="there are only pickled weights (pytorch_model.bin), which hwbench never loads")
    return Weights(None, reason=f"there is no {SINGLE}")


def cached_file(repos: Sequence[str], filename: str) -> Path | None:
    """The newest cached copy of a file of any of ``repos`` (names of one model), else None."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for repo in repos:
        try:
            found = try_to_load_from_cache(repo, filename)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found)
    return None


def cached_weights(repos: Sequence[str]) -> Weights:
    """Weights in the local cache."""
    for repo in repos:
        for filename in (SINGLE, INDEX, *PICKLES):
            path = cached_file([repo], filename)
            if path is not None:
                found = in_folder(path.parent)
                return Weights(found.folder, _origin(repo, path), found.reason)
    return Weights(None, reason="the local cache does not have them")


def download_config(repo: str) -> Path:
    """``config.json`` of a repository, through the cache. Raises :class:`Unreachable`."""
    _require_reachable()
    return _download(repo, "config.json")


def download_weights(repo: str) -> Weights:
    """Fetch config and safetensors of a repository into the cache. Raises :class:`Unreachable`."""
    _require_reachable()
    config = _download(repo, "config.json")
    try:
        _download(repo, SINGLE)
    except Unreachable as single:
        try:
            index = _download(repo, INDEX)
        except Unreachable:
            raise Unreachable(f"{single}, nor {INDEX} (pickled weights are never loaded)") from None
        for shard in _shards(index):
            _download(repo, shard)
    found = in_folder(config.parent)
    return Weights(found.folder, _origin(repo, config), found.reason)


def _shards(index: Path) -> list[str]:
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _origin(repo: str, path: Path) -> str:
    # In the cache a snapshot's folder is named by its commit.
    return f"hub:{repo}@{path.parent.name}"


def _download(repo: str, filename: str) -> Path:
    from huggingface_hub import errors, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

    transport_error: Any = vars(errors)["HTTPError"]  # httpx's or httpx2's, by the version of the hub's client

    try:
        return Path(hf_hub_download(repo, filename, etag_timeout=REACH_SECONDS))
    except HFValidationError:
        raise Unreachable(f"'{repo}' cannot be a hub name") from None
    except RepositoryNotFoundError:
        raise Unreachable(f"the hub has no public model '{repo}'") from None
    except EntryNotFoundError:
        raise Unreachable(f"'{repo}' on the hub has no {filename}") from None
    except (OSError, transport_error) as error:
        raise Unreachable(f"the download of {filename} failed ({type(error).__name__})") from error


def _require_reachable() -> None:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise Unreachable("HF_HUB_OFFLINE is set, so the hub was not asked")
    problem: list[str] = ["no answer"]

    def ask() -> None:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310  (the user's HF_ENDPOINT)
        try:
            with urllib.request.urlopen(request, timeout=REACH_SECONDS):  # noqa: S310
                problem.clear()
        except urllib.error.HTTPError as error:
            error.close()
            problem.clear()  # an error page is an answer
        except (OSError, ValueError) as error:
            problem[:] = [str(getattr(error, "reason", error))]

    # A thread, since name resolution obeys no socket timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    if problem:
        raise Unreachable(f"the hub ({constants.ENDPOINT}) could not be reached: {problem[0]}")
