"""Every category has a suggestion, every platform a plan."""

from __future__ import annotations

import dataclasses

from hwbench_mlflow.backends.fake import FakeBackend
from hwbench_mlflow.model import Availability, AvailabilityStatus, Device, FailureCategory, Platform
from hwbench_mlflow.remedies import PLANS, SUGGESTIONS, plan_for, suggested


def test_each_category_has_a_suggestion_in_one_line() -> None:
    assert set(SUGGESTIONS) == set(FailureCategory)
    assert all(text and "\n" not in text and not text.endswith(".") for text in SUGGESTIONS.values())


def test_an_error_s_own_remedy_goes_before_the_table_s() -> None:
    assert suggested(FailureCategory.TIMEOUT, "Wait longer") == "Wait longer"
    assert suggested(FailureCategory.TIMEOUT, None) == suggested(FailureCategory.TIMEOUT, "") != ""


def test_each_platform_has_a_plan_without_prices() -> None:
    assert set(PLANS) == set(Platform)
    for plan in PLANS.values():
        assert all((plan.hardware, plan.driver, plan.package, plan.why, *plan.rent))
        assert not set("$€") & set(repr(plan))


def test_hardware_that_is_there_needs_no_plan_and_what_is_emulated_does() -> None:
    emulated = FakeBackend().probe()
    assert plan_for(emulated) is PLANS[Platform.CPU]
    real = dataclasses.replace(emulated, devices=(Device(platform=Platform.CPU, id="cpu", name="x"),))
    assert plan_for(real) is None
    absent = Availability(platform=Platform.QNN, status=AvailabilityStatus.NO_DEVICE, reason="none")
    assert plan_for(absent) is PLANS[Platform.QNN]
