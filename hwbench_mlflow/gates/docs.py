"""Great Expectations' Data Docs of a gate: a page a suite and an index, plain files that open from disk."""

from __future__ import annotations

import copy
import html
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.errors import StoreError

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult


def write_docs(folder: Path, validations: Sequence[ExpectationSuiteValidationResult], title: str) -> Path:
    """Write the pages; returns the index. Raises StoreError where they cannot be written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations  # noqa: F401 -- quietly, before the modules of it that follow

    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    view: Any = DefaultJinjaPageView()
    pages: list[tuple[str, str, bool]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, validation in enumerate(validations):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Great Expectations about its own renderers
                shown = ValidationResultsPageRenderer(run_info_at_end=True).render(_as_text(validation))
                page: str = view.render(shown)
            name = f"{number:02d}-{validation.suite_name}.html"
            (folder / name).write_text(page, encoding="utf-8")
            pages.append((name, validation.suite_name, bool(validation.success)))
        index = folder / "index.html"
        index.write_text(_index(title, pages), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
    return index


def _as_text(validation: ExpectationSuiteValidationResult) -> Any:
    """The result with every text that came from the warehouse escaped: the page's templates put it in as it is."""
    safe = copy.deepcopy(validation)
    for result in safe.results:
        result.result = _escaped(result.result)
    return safe


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(found) for key, found in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(found) for found in value]
    return value


def _index(title: str, pages: Sequence[tuple[str, str, bool]]) -> str:
    rows = "".join(
        f'<li><a href="{html.escape(name)}">{html.escape(suite)}</a>: {"passed" if passed else "failed"}</li>\n'
        for name, suite, passed in pages
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<h1>{html.escape(title)}</h1><ul>\n{rows}</ul></html>\n"
    )
