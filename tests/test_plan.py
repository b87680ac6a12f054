"""Matrices: what contradicts itself is one line, and a plan holds each cell once, in an order that the seed gives."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hwbench_mlflow.codec import decode, encode
from hwbench_mlflow.errors import UsageError
from hwbench_mlflow.model import PROFILES, Platform, Precision, WeightsPolicy
from hwbench_mlflow.plan import (
    Cell,
    Plan,
    Settings,
    cell_id,
    cells_of,
    configuration,
    estimate,
    guess_seconds,
    matrix_of,
    plan_of,
    requests_of,
)
from tests.commands import ROOT

SETTINGS = Settings(
    profile=PROFILES["quick"],
    weights=WeightsPolicy.RANDOM,
    backends={platform: f"tests:{platform}" for platform in Platform},
    pins={},
)
BASE: dict[str, Any] = {"models": ["bert", "vit"], "hardware": ["cpu", "openvino"], "batch_sizes": [1, 2]}

WRONG: list[tuple[object, str]] = [
    ([1], "is no mapping of axes to values"),
    ({"modles": ["bert"], "hardware": "cpu"}, "'modles' is no axis. Did you mean 'models'?"),
    ({**BASE, "hardware": ["cpu", "openvimo"]}, "hardware: 'openvimo' is not known. Did you mean 'openvino'?"),
    ({**BASE, "precisions": ["int4"]}, "precisions: 'int4' is not known. Did you mean 'int8'?"),
    ({**BASE, "batch_sizes": [1, 0]}, "batch_sizes: 0 is no whole number of 1 or more"),
    ({**BASE, "batch_sizes": [True]}, "batch_sizes: True is no whole number"),
    ({**BASE, "batch_sizes": ["1"]}, "batch_sizes: '1' is no whole number"),
    ({**BASE, "batch_sizes": []}, "batch_sizes has no value"),
    ({**BASE, "models": ["bert", "bert"]}, "models names 'bert' twice"),
    ({**BASE, "models": [""]}, "models: '' is no name"),
    ({"hardware": "cpu"}, "names no models"),
    ({}, "names no models and no hardware"),
    ({**BASE, "exclude": {"model": "bert"}}, "exclude is no list"),
    ({**BASE, "exclude": [{}]}, "exclude 1 is no mapping"),
    ({**BASE, "exclude": [{"modell": "bert"}]}, "exclude 1: 'modell' is no field. Did you mean 'model'?"),
    ({**BASE, "exclude": [{"model": "gpt2"}]}, "exclude 1 matches no cell"),
    ({**BASE, "exclude": [{"hardware": ["cpu", "openvino"]}]}, "no cell left"),
    ({**BASE, "include": [{"model": "gpt2"}]}, "include 1 names no hardware"),
    ({**BASE, "include": [{"model": "bert", "hardware": "cpu"}]}, "include 1 is in the matrix already"),
    (
        {**BASE, "exclude": [{"model": "bert"}], "include": [{"model": "bert", "hardware": "cpu"}]},
        "include 1 is excluded as well",
    ),
    ({**BASE, "batch_sizes": list(range(1, 26_000))}, "the matrix has 103996 cells; 100000 is the most"),
]


@pytest.mark.parametrize(("document", "said"), WRONG, ids=lambda value: str(value)[-40:])
def test_what_contradicts_itself_is_one_line_that_says_what(document: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        cells_of(matrix_of(document))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_matrix_is_the_product_without_what_is_excluded_and_with_what_is_included() -> None:
    cells = cells_of(
        matrix_of(
            {
                **BASE,
                "exclude": [{"model": "vit", "batch_size": [2]}, {"model": "bert", "hardware": "openvino"}],
                "include": [{"model": "gpt2", "hardware": "cpu", "precision": "bf16"}],
            }
        )
    )
    found = {(cell.model, cell.hardware.value, cell.batch_size) for cell in cells}
    assert found == {
        ("bert", "cpu", 1),
        ("bert", "cpu", 2),
        ("vit", "cpu", 1),
        ("vit", "openvino", 1),
        ("gpt2", "cpu", 1),
    }
    assert cells[-1] == Cell(model="gpt2", hardware=Platform.CPU, precision=Precision.BF16)


def test_the_documented_matrix_is_one() -> None:
    text = (ROOT / "docs" / "how-to" / "batch.md").read_text(encoding="utf-8")
    block = re.search(r"^```yaml\n(models:.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    assert len(cells_of(matrix_of(yaml.safe_load(block[1])))) == 8


def axes() -> st.SearchStrategy[dict[str, Any]]:
    def some(values: list[Any]) -> st.SearchStrategy[list[Any]]:
        return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)

    return st.fixed_dictionaries(
        {"models": some(["bert", "vit", "gpt2"]), "hardware": some(["cpu", "openvino", "cuda"])},
        optional={"batch_sizes": some([1, 2, 4, 8]), "precisions": some(["fp32", "bf16"]), "threads": some([1, 2])},
    )


@given(axes(), st.integers(0, 2**31))
def test_a_plan_holds_every_cell_once_in_the_same_order_for_the_same_seed(document: dict[str, Any], seed: int) -> None:
    cells = cells_of(matrix_of(document))
    sizes = [len(values) for values in document.values()]
    assert len(cells) == len(set(cells)) == len(list(itertools.product(*map(range, sizes))))
    requests = requests_of(cells, SETTINGS)
    plan = plan_of(requests, seed, 0.0)
    assert sorted(map(cell_id, plan.requests)) == sorted(map(cell_id, requests))
    assert len(set(map(cell_id, requests))) == len(requests)
    assert plan_of(requests, seed, 0.0) == plan
    assert decode(encode(plan), Plan) == plan


@given(axes(), st.floats(1, 1000), st.floats(0, 10))
def test_an_estimate_is_what_the_longest_lane_takes(document: dict[str, Any], seconds: float, cooldown: float) -> None:
    plan = plan_of(requests_of(cells_of(matrix_of(document)), SETTINGS), 1, cooldown)
    first = plan.requests[0]
    one = estimate(plan, {configuration(first): seconds}, [plan.requests])
    known = [r for r in plan.requests if configuration(r) == configuration(first)]
    expected = len(known) * seconds + (len(plan.requests) - len(known)) * guess_seconds(PROFILES["quick"])
    assert one.seconds == pytest.approx(expected + len(plan.requests) * cooldown)
    assert (one.known, one.guessed) == (len(known), len(plan.requests) - len(known))
    halves = estimate(plan, {}, [plan.requests[::2], plan.requests[1::2]])
    assert halves.seconds <= estimate(plan, {}, [plan.requests]).seconds


def test_two_cells_that_come_to_the_same_are_refused() -> None:
    request = requests_of([Cell(model="bert", hardware=Platform.CPU)], SETTINGS)[0]
    with pytest.raises(UsageError, match="two cells are the same: bert on cpu, batch 1"):
        plan_of([request, request], 1, 0.0)


def test_a_pin_of_a_platform_that_nothing_runs_on_is_refused() -> None:
    pinned = Settings(
        profile=SETTINGS.profile, weights=SETTINGS.weights, backends=SETTINGS.backends, pins={Platform.CUDA: (0,)}
    )
    with pytest.raises(UsageError, match="--pin cuda: no cell"):
        requests_of([Cell(model="bert", hardware=Platform.CPU)], pinned)


def test_the_order_is_not_the_matrix_s() -> None:
    cells = cells_of(matrix_of({**BASE, "batch_sizes": [1, 2, 4, 8, 16]}))
    requests = requests_of(cells, SETTINGS)
    assert plan_of(requests, 7, 0.0).requests != requests
