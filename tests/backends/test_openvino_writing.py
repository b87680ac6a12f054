"""Models that write, on OpenVINO: the same logits as one pass of torch, with and without a cache, run after run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from hwbench_mlflow.backends.openvino import OpenvinoBackend
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import Device, FailureCategory, Phase, WeightsPolicy, Workload
from hwbench_mlflow.workloads.base import LoadedModel
from hwbench_mlflow.workloads.build import load
from hwbench_mlflow.workloads.challenge import make_inputs
from hwbench_mlflow.workloads.generation import teacher_forced
from tests.conftest import REQUIRED

if "openvino" not in REQUIRED:
    pytest.importorskip("openvino", reason="openvino is not installed")

TOKENS = 4
CASES = [
    ("gpt2-tiny-test", Phase.PREFILL, True),
    ("gpt2-tiny-test", Phase.DECODE, True),
    ("gpt2-tiny-test", Phase.GENERATE, True),
    ("gpt2-tiny-test", Phase.GENERATE, False),
    ("qwen2-0.5b-tiny-test", Phase.GENERATE, True),
    ("tinyllama-1.1b-tiny-test", Phase.DECODE, True),
]


@pytest.fixture(scope="module")
def cpu() -> Device:
    return OpenvinoBackend().probe().devices[0]


def made(alias: str, phase: Phase, *, cached: bool) -> LoadedModel:
    return load(
        Workload(
            model=alias, weights=WeightsPolicy.RANDOM, phase=phase, kv_cache=cached, batch_size=2, sequence_length=8,
            output_tokens=None if phase is Phase.PREFILL else TOKENS,
        )
    )  # fmt: skip


@contextmanager
def opened(cpu: Device, model: LoadedModel) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """A session with two input sets staged."""
    with OpenvinoBackend().open(cpu, model.workload, model, 1) as session:
        slots = [make_inputs(model.input_spec, "ab" * 16, slot) for slot in range(2)]
        session.stage(slots)
        yield session, slots


def expected(model: LoadedModel, inputs: dict[str, Any]) -> Any:
    with torch.no_grad():
        given = {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}
        return teacher_forced(model.module, model.workload)(**given)["logits"].numpy()


@pytest.mark.parametrize(("alias", "phase", "cached"), CASES)
def test_each_step_s_logits_are_those_of_one_pass_over_the_same_path(
    cpu: Device, alias: str, phase: Phase, cached: bool
) -> None:
    model = made(alias, phase, cached=cached)
    with opened(cpu, model) as (session, slots):
        outputs = [session.run(slot) for slot in (0, 1, 0)]  # a run must not leave anything to the next
        for slot, output in zip((0, 1, 0), outputs, strict=True):
            found = session.fetch(output)["logits"]
            wanted = expected(model, slots[slot])
            assert found.shape == wanted.shape == (2, 1 if phase is Phase.PREFILL else TOKENS, 128)
            np.testing.assert_allclose(found, wanted, atol=1e-5)
            assert len(output.token_ns) == (0 if phase is Phase.PREFILL else TOKENS)
            assert all(ns > 0 for ns in output.token_ns)
        assert not np.allclose(session.fetch(outputs[0])["logits"], session.fetch(outputs[1])["logits"])
        witness = session.witness_end(1, 1, None)
    assert witness.execution_devices == ("CPU",)
    assert (witness.executed_node_types or {})["FullyConnected"] > 0


def test_a_cache_grows_and_without_one_everything_is_read_again(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    from hwbench_mlflow.backends._openvino_writing import WriterSession

    read: list[tuple[int, int]] = []
    step = WriterSession._step

    def noted(self: WriterSession, turn: int, ids: Any, cache: Any) -> Any:
        read.append((ids.shape[1], cache[0].shape[2]))
        return step(self, turn, ids, cache)

    monkeypatch.setattr(WriterSession, "_step", noted)
    for cached, sizes in (
        (True, [(8, 0), (1, 8), (1, 9), (1, 10)]),
        (False, [(8, 0), (9, 0), (10, 0), (11, 0)]),
    ):
        with opened(cpu, made("gpt2-tiny-test", Phase.GENERATE, cached=cached)) as (session, _):
            read.clear()
            session.run(0)
            assert read == sizes, "tokens that were read, and tokens in the cache before"


def test_a_decoding_starts_behind_its_prompt_which_is_read_before_the_clock_runs(
    cpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwbench_mlflow.backends._openvino_writing import WriterSession

    with opened(cpu, made("gpt2-tiny-test", Phase.DECODE, cached=True)) as (session, _):
        before = [np.array(tensor.data) for tensor in session._prefixes[0]]
        assert before[0].shape[2] == 8
        first, again = session.run(0), session.run(0)
        np.testing.assert_array_equal(session.fetch(first)["logits"], session.fetch(again)["logits"])
        for tensor, was in zip(session._prefixes[0], before, strict=True):
            np.testing.assert_array_equal(tensor.data, was)
    assert isinstance(session, WriterSession)
    with pytest.raises(BenchmarkFailed, match="the session is closed"):
        session.run(0)


@pytest.mark.parametrize(
    ("alias", "reads"),
    [("t5-small-tiny-test", "input_ids, decoder_input_ids"), ("llava-1.5-7b-tiny-test", "input_ids, pixel_values")],
)
def test_a_model_that_is_no_text_decoder_is_refused_in_one_line(cpu: Device, alias: str, reads: str) -> None:
    model = load(Workload(model=alias, weights=WeightsPolicy.RANDOM, phase=Phase.GENERATE, output_tokens=2))
    with pytest.raises(BenchmarkFailed, match=f"reads {reads}") as caught, opened(cpu, model):
        pass
    assert caught.value.category is FailureCategory.UNSUPPORTED_OPERATOR
    assert "\n" not in str(caught.value)
