"""Searches: what they mean, and one line for what means nothing."""

from __future__ import annotations

from datetime import datetime

import pytest

from hwbench_mlflow.decide.selectors import FIELDS, GRAMMAR, VARIES, parse, varied
from hwbench_mlflow.errors import UsageError


def test_words_narrow_and_commas_widen() -> None:
    found = parse(
        "model:bert,gpt2 platform:cpu 'tag:team=the best' package:torch=2.13.0 git:abc1234 experiment:nightly"
    )
    assert found.fields == {"model": ("bert", "gpt2"), "hardware": ("cpu",)}
    assert found.tags == (("team", "the best"),)
    assert found.packages == (("torch", "2.13.0"),)
    assert found.commits == ("abc1234",)
    assert found.experiments == ("nightly",)
    assert parse("tag:a=b=c").tags == (("a", "b=c"),)


def test_runs_are_ids_or_their_beginnings() -> None:
    assert parse("0123AB").runs == ("0123ab",)
    assert parse("run:0123ab,0123ac").runs == ("0123ab", "0123ac")


@pytest.mark.parametrize("text", ["2026-11-01..2026-11-07", "since:2026-11-01 until:2026-11-07"])
def test_a_range_of_days_holds_its_last_one(text: str) -> None:
    found = parse(text)
    assert (found.since, found.until) == (datetime(2026, 11, 1), datetime(2026, 11, 8))


def test_times_are_utc_and_ends_may_be_open() -> None:
    assert parse("2026-11-01T12:00+02:00..").since == datetime(2026, 11, 1, 10)
    assert parse("..2026-11-01T12:00").until == datetime(2026, 11, 1, 12)


@pytest.mark.parametrize(
    "text",
    ["", "  ", "'open", "hello", "0123", "colour:red", "model:", "model:,", "tag:x", "tag:=1", "package:torch",
     "since:monday", "2026-11-07..2026-11-01", "..", "run:xyz"],
)  # fmt: skip
def test_what_means_nothing_is_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_what_both_sides_name_differently_is_the_question() -> None:
    cpu, other = parse("hardware:cpu model:bert"), parse("hardware:openvino model:bert")
    assert varied(cpu, other, ()) == ("hardware",)
    assert varied(cpu, cpu, ("host",)) == ("host",)
    assert varied(cpu, parse("model:bert"), ()) == ()


def test_the_help_names_every_word() -> None:
    assert all(f"{word}:" in GRAMMAR for word in FIELDS)
    assert set(VARIES) <= set(FIELDS)
