"""What a test of a real browser needs."""

from __future__ import annotations

import pytest

from hwbench_mlflow.backends import _browser, _web
from tests.conftest import REQUIRED, WEBNN_BROWSER


def need(name: str) -> None:
    """Skip without the parts of a browser's measurement; fail where they are required."""
    missing = _web.missing_packages()
    try:
        if missing is not None:
            raise missing
        _browser.find_browser()
        _browser.runtime_folder()
    except _browser.BrowserMissing as error:
        if name in REQUIRED:
            pytest.fail(f"{name} is required here: {error}")
        pytest.skip(str(error))


def webnn_browser() -> str:
    """The browser with a WebNN backend; skips without one, fails where it is required."""
    if WEBNN_BROWSER is None:
        if "webnn" in REQUIRED:
            pytest.fail("webnn is required here: HWBENCH_TEST_WEBNN_BROWSER names no browser")
        pytest.skip("HWBENCH_TEST_WEBNN_BROWSER names no browser with a WebNN backend")
    need("webnn")
    return WEBNN_BROWSER
