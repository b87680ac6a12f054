from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench_mlflow.workloads.base import InputSpec
from hwbench_mlflow.workloads.challenge import inputs_digest, make_inputs, pick_positions, sample_output

TEXT = (InputSpec("input_ids", "token", (2, 16), 5, 100), InputSpec("attention_mask", "ones", (2, 16)))
IMAGE = (InputSpec("pixel_values", "normal", (2, 3, 8, 8)),)
GOLDEN_TOKENS = [59, 33, 80, 92]
GOLDEN_PIXELS = [-0.2001, 0.6357, -1.9528]
GOLDEN_POSITIONS = (894, 2255, 7925, 8222)


def test_inputs_have_the_shapes_types_and_ranges_asked_for() -> None:
    text, image = make_inputs(TEXT, "n", 0), make_inputs(IMAGE, "n", 0)
    assert text["input_ids"].dtype == text["attention_mask"].dtype == np.int64
    assert text["input_ids"].shape == (2, 16)
    assert text["input_ids"].min() >= 5
    assert text["input_ids"].max() < 100
    assert (text["attention_mask"] == 1).all()
    assert image["pixel_values"].dtype == np.float32
    assert image["pixel_values"].shape == (2, 3, 8, 8)
    assert abs(image["pixel_values"].mean()) < 0.3
    assert 0.7 < image["pixel_values"].std() < 1.3


def test_the_stream_is_the_one_earlier_evidence_was_made_with() -> None:
    # A change here makes every challenge ever stored unverifiable.
    text, image = make_inputs(TEXT, "n", 0), make_inputs(IMAGE, "n", 0)
    assert text["input_ids"][0, :4].tolist() == GOLDEN_TOKENS
    assert [round(float(x), 4) for x in image["pixel_values"].ravel()[:3]] == GOLDEN_PIXELS
    assert pick_positions("n", 0, 10_000, 4) == GOLDEN_POSITIONS


def test_another_process_makes_the_same_inputs() -> None:
    program = (
        "from hwbench_mlflow.workloads.base import InputSpec as I\n"
        "from hwbench_mlflow.workloads.challenge import *\n"
        "print(inputs_digest(make_inputs([I('input_ids','token',(2,16),5,100),I('attention_mask','ones',(2,16))],'n',7)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == inputs_digest(make_inputs(TEXT, "n", 7))


def test_a_nonce_a_slot_and_a_name_each_change_the_inputs() -> None:
    digests = {inputs_digest(make_inputs(IMAGE, nonce, slot)) for nonce in ("a", "b") for slot in (0, 1)}
    assert len(digests) == 4
    other = (InputSpec("other", "normal", (2, 3, 8, 8)),)
    assert not np.array_equal(make_inputs(other, "a", 0)["other"], make_inputs(IMAGE, "a", 0)["pixel_values"])


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind 'audio'"):
        make_inputs([InputSpec("x", "audio", (1,))], "n", 0)


def test_the_digest_sees_name_type_shape_and_bytes_but_not_order_or_layout() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    base = inputs_digest({"a": a, "b": a})
    assert base == inputs_digest({"b": a, "a": np.asfortranarray(a)})
    assert base == inputs_digest({"a": a.astype(">f4"), "b": a})
    changed = a.copy()
    changed[1, 2] += 1
    different = [
        {"a": a, "c": a},
        {"a": a.astype(np.float64), "b": a},
        {"a": a.reshape(3, 2), "b": a},
        {"a": changed, "b": a},
    ]
    assert len({base, *map(inputs_digest, different)}) == 5


def test_the_digest_is_plain_sha256_that_anyone_can_recompute() -> None:
    a = np.array([1.0, 2.0], dtype=np.float32)
    assert inputs_digest({"a": a}) == hashlib.sha256(b"a\0float32\0(2,)\0" + a.tobytes()).hexdigest()


@given(st.text(max_size=8), st.integers(0, 9), st.integers(1, 5000), st.integers(1, 80))
def test_positions_are_distinct_sorted_and_inside(nonce: str, slot: int, size: int, count: int) -> None:
    positions = pick_positions(nonce, slot, size, count)
    assert list(positions) == sorted(set(positions))
    assert len(positions) == min(size, count)
    assert 0 <= positions[0] <= positions[-1] < size


def test_positions_follow_the_nonce() -> None:
    assert pick_positions("a", 0, 10_000) != pick_positions("b", 0, 10_000)
    assert pick_positions("a", 0, 10_000) != pick_positions("a", 1, 10_000)


def test_a_sample_is_the_elements_of_the_concatenation_in_name_order() -> None:
    outputs = {"z": np.arange(500, 1000, dtype=np.float32).reshape(5, 100), "a": np.arange(500, dtype=np.float32)}
    elements, digest, total = sample_output(outputs, "n", 3)
    assert total == 1000
    assert elements == tuple(float(p) for p in pick_positions("n", 3, 1000))
    assert digest == inputs_digest(outputs)


def test_a_small_output_is_kept_whole() -> None:
    elements, _, total = sample_output({"y": np.array([[3.0, 1.0]], dtype=np.float32)}, "n", 0)
    assert (elements, total) == ((3.0, 1.0), 2)


def test_a_wrong_output_is_seen_by_its_sample() -> None:
    right = {"y": np.ones((4, 4), dtype=np.float32)}
    wrong = {"y": np.zeros((4, 4), dtype=np.float32)}
    assert sample_output(right, "n", 0)[:2] != sample_output(wrong, "n", 0)[:2]


def test_what_is_not_finite_stays_visible() -> None:
    elements, _, _ = sample_output({"y": np.array([np.nan, np.inf], dtype=np.float32)}, "n", 0)
    assert math.isnan(elements[0])
    assert math.isinf(elements[1])


def test_no_output_is_refused() -> None:
    with pytest.raises(ValueError, match="no output elements"):
        sample_output({}, "n", 0)
