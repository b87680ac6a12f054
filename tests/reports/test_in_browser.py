"""The page as Chromium has it: parsed, laid out, printed; in light and in dark."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.conftest import REQUIRED
from tests.reports.test_report import Page, rows

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def chromium(tmp_path: Path) -> Callable[..., bytes]:
    """Chromium without a window: what it prints of the page."""
    if CHROMIUM is None:
        if "chromium" in REQUIRED:
            pytest.fail("Chromium is required here and is not there")
        pytest.skip("there is no Chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]

    def run(*arguments: str) -> bytes:
        assert CHROMIUM is not None
        done = subprocess.run(
            [CHROMIUM, *flags, *arguments, (tmp_path / "report.html").as_uri()],
            capture_output=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout

    return run


@pytest.mark.slow
@pytest.mark.parametrize("asked", [True, False])
def test_the_browser_finds_every_simulated_mark_and_runs_nothing(
    here: Path, reported: Callable[..., Result], chromium: Callable[..., bytes], asked: bool
) -> None:
    assert reported(*(["--include-simulated"] if asked else [])).exit_code == 0
    found = Page(chromium("--dump-dom").decode())
    simulated = {r for (r,) in rows(here, "simulated_results", "run_id")}
    outside, inside = found.text(simulated=False), found.text(simulated=True)
    assert not [r for r in simulated if r in outside]
    assert ("SIMULATED" in outside) is asked  # its title and its heading only
    assert bool([r for r in simulated if r in inside]) is asked
    assert not [r for (r,) in rows(here, "real_results", "run_id") if r in inside]
    assert len([tag for tag, attrs in found.tags if tag == "tr" and attrs.get("data-simulated")]) == (6 if asked else 0)
    # The browser's own parser, too, made no element of a name.
    assert "script" not in {tag for tag, _ in found.tags}
    assert not [tag for tag, attrs in found.tags if any(name.startswith("on") for name in attrs)]
    assert len([tag for tag, _ in found.tags if tag == "svg"]) == (9 if asked else 8)


@pytest.mark.slow
def test_it_can_be_drawn_and_printed(
    here: Path, reported: Callable[..., Result], chromium: Callable[..., bytes]
) -> None:
    assert reported("--include-simulated").exit_code == 0
    pictures = []
    for name, dark in (("light.png", False), ("dark.png", True)):
        chromium(f"--screenshot={here / name}", "--window-size=1280,900", *(["--force-dark-mode"] if dark else []))
        pictures.append((here / name).read_bytes())
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert all(len(picture) > 20_000 for picture in pictures), "a blank page"
    chromium(f"--print-to-pdf={here / 'report.pdf'}")
    printed = (here / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    # Where each of the 20 results comes from is printed too: in a column of one letter it took hundreds of pages.
    assert 10 < len(re.findall(rb"/Type /Page\b", printed)) < 40


@pytest.mark.slow
def test_at_a_window_of_1100_pixels_no_column_and_no_label_of_a_figure_is_cut_off(
    here: Path, reported: Callable[..., Result], chromium: Callable[..., bytes]
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    assert reported("--include-simulated").exit_code == 0
    with sync_api.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, whole in ((1100, True), (400, False)):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto((here / "report.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == width  # a table scrolls alone
            tables = page.evaluate("[...document.querySelectorAll('.scroll')].map(e => [e.scrollWidth, e.clientWidth])")
            assert len(tables) >= 2
            assert all(wide <= there for wide, there in tables) is whole
            texts, cut = page.evaluate(OUTSIDE)
            assert texts > 50
            assert cut == []
            assert set(page.evaluate(LINES_OF_A_STATUS)) == {1}
            if whole:
                _reached_by_tab(page)
            page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
            assert min(page.evaluate("[...document.querySelectorAll('details dd')].map(e => e.offsetWidth)")) > 150
        browser.close()


def _reached_by_tab(page: Any) -> None:
    """The skip link comes first and works; then everything that can be used, in the order that it is read in."""
    expected = page.evaluate(
        "[...document.querySelectorAll('a[href], summary, [tabindex=\"0\"]')].map((e, i) => (e.dataset.place = i))"
    )
    found = []
    for _ in expected:
        page.keyboard.press("Tab")
        found.append(page.evaluate("Number(document.activeElement.dataset.place)"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", "focus is not seen"
    assert found == expected
    assert len(found) > 30
    page.evaluate("document.activeElement.blur()")
    page.locator("a.skip").focus()
    assert page.evaluate("document.querySelector('a.skip').getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#results"


LINES_OF_A_STATUS = """() => [...document.querySelectorAll('#missing td')]
  .filter(cell => cell.textContent === 'AVAILABLE')
  .map(cell => {
    const text = document.createRange();
    text.selectNodeContents(cell);
    return text.getClientRects().length;
  })
"""

OUTSIDE = """() => {
  const texts = [...document.querySelectorAll('figure svg text')];
  const cut = texts.filter(t => {
    const picture = t.closest('svg').getBoundingClientRect(), text = t.getBoundingClientRect();
    return text.left < picture.left - 1 || text.right > picture.right + 1
        || text.top < picture.top - 1 || text.bottom > picture.bottom + 1;
  });
  return [texts.length, cut.map(t => t.textContent)];
}"""
"""How many texts the figures have, and those that leave their picture."""
