"""Running suites over frames with Great Expectations, and counting what came back.

Every rule of a suite has an outcome, whatever Great Expectations makes of it: one that it does not know, drops, raises
in, evaluates nothing for, or gives no result of, has not passed and refuses everything.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.gates.loader import Rule, Suite
from hwbench_mlflow.rules import Outcome, RuleKind

os.environ["GX_ANALYTICS_ENABLED"] = "False"

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult

EMPTY_RULE = "rows"
SHOWN = 200


@dataclass(slots=True)
class Checked:
    """The outcomes of suites, and Great Expectations' own results for its Data Docs."""

    outcomes: list[Outcome] = field(default_factory=list)
    validations: list[ExpectationSuiteValidationResult] = field(default_factory=list)


def check(suite: Suite, frames: Iterable[pd.DataFrame], *, allow_empty: bool = False) -> Checked:
    """Run a suite over a table that comes in pieces. Never raises for what a rule or Great Expectations does."""
    checked = Checked()
    try:
        _import_quietly()
        expectations, strange = _expectations(suite)
    except ImportError as error:
        checked.outcomes = [_failed(suite, rule, f"Great Expectations cannot be used: {error}") for rule in suite.rules]
        return checked
    found: dict[str, list[Outcome]] = {rule.rule: [] for rule in suite.rules}
    rows = 0
    for frame in frames:
        rows += len(frame)
        if not len(frame):
            continue
        try:
            result = _validate(suite, expectations, frame)
        except Exception as error:  # noqa: BLE001 -- whatever a check raises means that it was not made
            result, why = None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        for rule in suite.rules:
            if rule.rule in strange:
                continue
            if result is None:
                found[rule.rule].append(_failed(suite, rule, f"the suite could not be run: {why}"))
                continue
            answers = [r for r in result.results if _rule_of(r) == rule.rule]
            if len(answers) == 1 and rule.kind is RuleKind.ROW and not answers[0].success:
                answers = _listed(suite, rule, expectations, frame) or answers
            found[rule.rule].append(_outcome(suite, rule, answers, len(frame)))
        if result is not None:
            checked.validations.append(result)
    checked.outcomes.append(_rows(suite, rows, allow_empty=allow_empty))
    for rule in suite.rules:
        if rule.rule in strange:
            checked.outcomes.append(_failed(suite, rule, strange[rule.rule]))
        elif rows:
            checked.outcomes.append(_merged(suite, rule, found[rule.rule]))
    return checked


def _rows(suite: Suite, rows: int, *, allow_empty: bool) -> Outcome:
    """The one rule that looks at a table without rows: over it every other one would pass."""
    empty = not rows and not allow_empty and not suite.empty_is_honest
    return suite.outcome(
        f"{suite.name}.{EMPTY_RULE}", RuleKind.TABLE,
        "Every rule passes over an empty table, so a table that lost its rows must not.",
        "run `hwbench sync`; if there is nothing to publish yet, say so with --allow-empty",
        passed=not empty, evaluated=rows, unexpected=int(empty), reason=f"{suite.table} is empty" if empty else None,
    )  # fmt: skip


def _import_quietly() -> None:
    """Great Expectations imports what Python has deprecated; who makes warnings errors does not mean that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations.expectations
        import great_expectations.render  # noqa: F401


def _classes() -> Mapping[str, type]:
    import great_expectations.expectations as core

    from hwbench_mlflow.gates.expectations import OWN

    named = [getattr(core, name) for name in dir(core) if name.startswith("Expect")] + list(OWN)
    return {_snake(kind.__name__): kind for kind in named if isinstance(kind, type)}


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _expectations(suite: Suite) -> tuple[list[Any], dict[str, str]]:
    """An expectation for each rule; rule -> what is wrong with it, for those that are none."""
    from great_expectations.expectations.expectation import (
        ColumnMapExpectation,
        ColumnPairMapExpectation,
        MulticolumnMapExpectation,
    )

    rowwise = (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)
    known, made, strange = _classes(), [], {}
    for rule in suite.rules:
        kind = known.get(rule.type)
        if kind is None:
            strange[rule.rule] = f"{rule.type} is no expectation"
            continue
        if rule.kind is RuleKind.ROW and not issubclass(kind, rowwise):
            strange[rule.rule] = f"{rule.type} is about a table: it cannot say which rows fail"
            continue
        try:
            made.append(kind(**rule.kwargs, meta={"rule": rule.rule, "why": rule.why, "what to do": rule.what_to_do}))
        except (ValueError, TypeError) as error:  # pydantic's ValidationError is a ValueError
            strange[rule.rule] = f"{rule.type} does not take these arguments: {' '.join(str(error).split())[:SHOWN]}"
    return made, strange


def _listed(
    suite: Suite, rule: Rule, expectations: list[Any], frame: pd.DataFrame
) -> list[ExpectationValidationResult]:
    """The results of one rule that failed, with every row that did. Listing rows copies the frame, so only what
    the rule looks at is in it, and only rules that failed are run twice. Empty if it cannot be made: then nothing
    is listed, which refuses everything."""
    mine = [e for e in expectations if e.meta["rule"] == rule.rule]
    columns = [c for c in dict.fromkeys([suite.key, *rule.columns]) if c in frame.columns]
    try:
        results = _validate(suite, mine, frame[columns], listing=True).results
    except Exception:  # noqa: BLE001 -- whatever it raises, the rows are not listed
        return []
    return [r for r in results if _rule_of(r) == rule.rule]


def _validate(
    suite: Suite, expectations: list[Any], frame: pd.DataFrame, *, listing: bool = False
) -> ExpectationSuiteValidationResult:
    import great_expectations as gx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas and of Great Expectations itself, about each other
        built = gx.ExpectationSuite(name=suite.name, expectations=[e.copy(deep=True) for e in expectations])
        batch = _asset(suite.table).add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
        form = {"result_format": "COMPLETE", "unexpected_index_column_names": [suite.key]} if listing else "BASIC"
        result: ExpectationSuiteValidationResult = batch.validate(built, result_format=form)
        return result


def _rule_of(answer: ExpectationValidationResult) -> str | None:
    config = answer.expectation_config
    return (config.meta or {}).get("rule") if config is not None else None


def _asset(table: str) -> Any:
    import great_expectations as gx

    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    return context.data_sources.add_pandas("warehouse").add_dataframe_asset(table)


def _failed(suite: Suite, rule: Rule, reason: str) -> Outcome:
    """A rule that was not evaluated: whatever its kind, it refuses everything."""
    return suite.outcome(
        rule.rule, RuleKind.TABLE, rule.why, rule.what_to_do, passed=False, reason=f"not evaluated: {reason}"
    )


def _outcome(suite: Suite, rule: Rule, answers: list[ExpectationValidationResult], rows: int) -> Outcome:
    if len(answers) != 1:
        return _failed(suite, rule, f"Great Expectations gave {len(answers)} results of it")
    answer = answers[0]
    raised = _raised(answer.exception_info or {})
    if raised is not None:
        return _failed(suite, rule, f"it raised: {raised}")
    result = answer.result or {}
    if "element_count" not in result:
        return _of_table(suite, rule, answer, rows)
    seen = result["element_count"]
    known = seen - (result.get("missing_count") or 0)
    if seen != rows or not (known or rule.may_be_null):
        return _failed(suite, rule, f"it evaluated {known} of {rows} rows")
    return _of_rows(suite, rule, answer, rows)


def _of_rows(suite: Suite, rule: Rule, answer: ExpectationValidationResult, rows: int) -> Outcome:
    result = answer.result or {}
    # Where a key is in the frame twice, each of its rows is in the list.
    listed = result.get("unexpected_index_list") or []
    refused = [(str(row[suite.key]), _observed(rule, row, suite.key)) for row in listed]
    unexpected = int(result.get("unexpected_count") or 0)
    if bool(answer.success) is not (unexpected == 0) or unexpected != len(refused):
        return _failed(suite, rule, f"success is {answer.success} with {unexpected} unexpected, {len(refused)} listed")
    if not unexpected:
        return suite.outcome(rule.rule, rule.kind, rule.why, rule.what_to_do, passed=True, evaluated=rows, unexpected=0)
    reason = f"{unexpected} of {rows} rows: {refused[0][1]}"
    return suite.outcome(
        rule.rule, rule.kind, rule.why, rule.what_to_do, passed=False, evaluated=rows, unexpected=unexpected,
        reason=reason, refused=refused if rule.kind is RuleKind.ROW else (),
    )  # fmt: skip


def _raised(info: Mapping[str, Any]) -> str | None:
    """Great Expectations tells of one exception, or of one for each metric."""
    nested: list[Mapping[str, Any]] = [value for value in info.values() if isinstance(value, dict)]
    for found in nested or [info]:
        if found.get("raised_exception"):
            return " ".join(str(found.get("exception_message")).split())[:SHOWN]
    return None


def _of_table(suite: Suite, rule: Rule, answer: ExpectationValidationResult, rows: int) -> Outcome:
    observed = (answer.result or {}).get("observed_value")
    if observed is None:
        return _failed(suite, rule, "it observed nothing")
    passed = bool(answer.success)
    return suite.outcome(
        rule.rule, rule.kind, rule.why, rule.what_to_do, passed=passed, evaluated=rows, unexpected=0 if passed else 1,
        reason=None if passed else f"{rule.type}: observed {str(observed)[:SHOWN]}",
    )  # fmt: skip


def _observed(rule: Rule, row: Mapping[str, Any], key: str) -> str:
    values = ", ".join(f"{name} {row[name]!s:.{SHOWN}}" for name in rule.columns if name in row and name != key)
    return f"{rule.why} Found: {values or row[key]}"


def _merged(suite: Suite, rule: Rule, pieces: list[Outcome]) -> Outcome:
    """One outcome of a rule over all pieces of a table."""
    failed = [o for o in pieces if not o.passed]
    if not failed:
        evaluated = sum(o.evaluated or 0 for o in pieces)
        return suite.outcome(
            rule.rule, rule.kind, rule.why, rule.what_to_do, passed=True, evaluated=evaluated, unexpected=0
        )
    broken = next((o for o in failed if o.evaluated is None), None)
    if broken is not None or len(pieces) == 1:
        return broken or failed[0]
    return suite.outcome(
        rule.rule, rule.kind, rule.why, rule.what_to_do, passed=False,
        evaluated=sum(o.evaluated or 0 for o in pieces), unexpected=sum(o.unexpected or 0 for o in pieces),
        reason=failed[0].reason, refused=[row for o in failed for row in o.refused],
    )  # fmt: skip
