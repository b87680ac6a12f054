"""Every architecture of the zoo on the platforms that are here, against torch in fp32; each gap has kind and reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from hwbench_mlflow.backends.cpu import CpuBackend
from hwbench_mlflow.backends.openvino import OpenvinoBackend
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import TINY_SUFFIX, AvailabilityStatus, FailureCategory, WeightsPolicy, Workload
from hwbench_mlflow.workloads.build import load
from hwbench_mlflow.workloads.challenge import make_inputs
from hwbench_mlflow.workloads.zoo import BUILT_IN

pytestmark = pytest.mark.slow

TOLERANCE = 2e-3  # of the reference's standard deviation, as the verdict's

# One alias an architecture: the others differ in size only.
ALIASES = sorted({str(spec.config["model_type"]): spec.alias + TINY_SUFFIX for spec in BUILT_IN}.values())

GAPS = {
    ("openvino", "llava-next-tiny-test"): (
        "upstream",
        "its converter cannot trace how transformers cuts an image into tiles by the image's own size",
        "cannot convert the model",
    ),
}
"""(platform, alias) -> whose gap it is, why, and what hwbench says: a gap that closes fails here, and is taken out."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("backend", [CpuBackend, OpenvinoBackend], ids=["cpu", "openvino"])
@pytest.mark.parametrize("alias", ALIASES)
def test_the_outputs_are_those_of_torch_in_fp32_or_the_gap_is_said(backend: Any, alias: str) -> None:
    platform = backend()
    found = platform.probe()
    assert found.status is AvailabilityStatus.AVAILABLE
    model = load(Workload(model=alias, weights=WeightsPolicy.RANDOM, batch_size=2))
    inputs = make_inputs(model.input_spec, "n", 0)
    with torch.inference_mode():
        reference = model.module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    gap = GAPS.get((str(platform.platform), alias))
    if gap is not None:
        with (
            pytest.raises(BenchmarkFailed, match=gap[2]) as caught,
            platform.open(found.devices[0], model.workload, model, 1),
        ):
            pass
        assert caught.value.category is FailureCategory.UNSUPPORTED_OPERATOR
        assert "\n" not in str(caught.value)
        return
    with platform.open(found.devices[0], model.workload, model, 1) as session:
        session.stage([inputs])
        observed = session.fetch(session.run(0))
    assert observed.keys() == set(model.output_names)
    for name, array in observed.items():
        wanted = reference[name].numpy()
        assert np.abs(array - wanted).max() <= TOLERANCE * wanted.std(), name
