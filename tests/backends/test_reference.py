"""The probe's check bites: each wrong thing fails it."""

from __future__ import annotations

import math

import pytest

from hwbench_mlflow.backends._reference import (
    CHECK_DIM,
    check_matrices,
    example_arrays,
    judge_product,
    one_line,
    sized_spec,
)
from hwbench_mlflow.errors import UsageError
from hwbench_mlflow.workloads.base import InputSpec


def test_the_reference_is_the_same_each_time_and_integer() -> None:
    a, b, product = check_matrices()
    assert check_matrices() == (a, b, product)
    assert all(value == int(value) for row in product for value in row)
    assert product[3][5] == sum(a[3][k] * b[k][5] for k in range(CHECK_DIM))


def test_the_right_product_of_the_right_device_passes() -> None:
    _, _, product = check_matrices()
    check = judge_product("d:0", product, product, identity="U1", enumerated="U1")
    assert check.passed
    assert (check.max_abs_error, check.identity) == (0.0, "U1")


@pytest.mark.parametrize("wrong", [1.0, -0.5, math.nan, math.inf])
def test_one_wrong_element_fails(wrong: float) -> None:
    _, _, product = check_matrices()
    observed = [list(row) for row in product]
    observed[7][9] += wrong
    check = judge_product("d:0", observed, product, identity="U1", enumerated="U1")
    assert not check.passed
    assert "wrong" in check.reason


def test_a_product_of_another_shape_fails() -> None:
    _, _, product = check_matrices()
    assert not judge_product("d:0", product[:-1], product, identity="U1", enumerated="U1").passed
    assert not judge_product("d:0", [], product, identity="U1", enumerated="U1").passed


def test_another_identity_afterwards_fails() -> None:
    _, _, product = check_matrices()
    check = judge_product("d:0", product, product, identity="U2", enumerated="U1")
    assert not check.passed
    assert "U1" in check.reason
    assert "U2" in check.reason


def test_a_vendor_s_message_becomes_one_line_that_keeps_its_end() -> None:
    assert one_line(RuntimeError("a\n  b\n")) == "a b"
    assert one_line(RuntimeError("")) == "RuntimeError"
    long = one_line("x" * 999 + " the end")
    assert len(long) <= 303
    assert long.endswith("the end")


def test_examples_have_the_batch_asked_for_and_stay_in_range() -> None:
    spec = (
        InputSpec("ids", "token", (1, 8), 3, 7),
        InputSpec("mask", "ones", (1, 8)),
        InputSpec("px", "normal", (1, 3)),
    )
    made = example_arrays(sized_spec(spec, 4))
    assert {name: array.shape for name, array in made.items()} == {"ids": (4, 8), "mask": (4, 8), "px": (4, 3)}
    assert made["ids"].min() >= 3
    assert made["ids"].max() < 7
    assert (made["mask"] == 1).all()


def test_an_unknown_kind_of_input_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown kind"):
        example_arrays((InputSpec("x", "noise", (1,)),))
