"""The documentation: its commands run, its guides work, its links lead somewhere, and it builds as a site.

Each shell block of a page says in a comment before it what is done with it here. ``runs``: executed by bash, in the
order of the page, with the test profile and the smallest model put in and RUN_ID replaced by the last run; ``checked``:
each line is held against the real command line, and not executed.
"""

from __future__ import annotations

import importlib.util
import re
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from tests.commands import ROOT, environment
from tests.conftest import REQUIRED
from tests.shown import Block, blocks, check_hwbench, check_line, inline

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
EXECUTED = ("how-to/batch.md", "how-to/simulate.md", "trust.md")
"""Pages whose blocks that run need nothing before them."""


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def shell(name: str) -> list[Block]:
    return [block for block in blocks(page(name)) if block.language == "bash"]


def execute(block: Block, folder: Path, env: dict[str, str], *, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A block as a reader types it, but for the profile, the model and the name of the run."""
    script = re.sub(r"^hwbench run ", "hwbench run --profile smoke ", block.body, flags=re.MULTILINE)
    script = re.sub(r"--model bert-tiny\b(?!-)", "--model bert-tiny-test", script)
    if "RUN_ID" in script:
        script = script.replace("RUN_ID", last_run(folder))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{script}\n{done.stdout}\n{done.stderr}"
    return done


def last_run(folder: Path) -> str:
    with sqlite3.connect(folder / "mlflow.db") as database:
        query = "SELECT r.run_uuid FROM runs r JOIN tags t USING (run_uuid) WHERE t.key = 'verdict' ORDER BY start_time"
        return str(database.execute(query).fetchall()[-1][0])


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(HWBENCH_HOME=str(tmp_path / "home"), COLUMNS="120")


@pytest.mark.parametrize("name", PAGES)
def test_each_shell_block_says_what_is_done_with_it_and_each_command_is_one(name: str) -> None:
    for block in shell(name):
        assert block.marker in {"checked", "runs"}, block
        for line in block.lines:
            check_line(line)
    for line in inline(page(name)):
        check_hwbench(line)


def test_a_command_that_is_not_one_would_be_noticed() -> None:
    for line in (
        "hwbench run --colour red", "hwbench rum", "mlflow run . -P colour=red", "mlflow run . -e nothing",
        "pip install '.[nothing]'", "rm -rf x",
    ):  # fmt: skip
        with pytest.raises((AssertionError, KeyError, click.ClickException)):
            check_line(line)


def test_what_is_executed_is_executed_somewhere_here() -> None:
    running = {name for name in PAGES if any(block.marker == "runs" for block in shell(name))}
    assert running == {*EXECUTED, "tutorial.md", "guides/add-a-platform.md", "guides/add-a-model.md"}


@pytest.mark.slow
def test_the_tutorial_leads_to_a_report(tmp_path: Path, env: dict[str, str]) -> None:
    """A busy machine may leave a measurement unverified: then everything after it has to say so."""
    devices, measured, verified, published, asked = [block for block in shell("tutorial.md") if block.marker == "runs"]
    assert re.search(r"^cpu +AVAILABLE +yes", execute(devices, tmp_path, env).stdout, re.MULTILINE)
    verdicts = re.findall(r"^  verdict +(\w+)", execute(measured, tmp_path, env).stdout, re.MULTILINE)
    assert len(verdicts) == 2
    assert set(verdicts) <= {"verified", "unverified"}
    said = execute(verified, tmp_path, env, code=0 if verdicts[-1] == "verified" else 3)
    assert f"{last_run(tmp_path)}: {verdicts[-1]}" in said.stdout + said.stderr
    execute(published, tmp_path, env)
    assert "bert-tiny-test" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "bert-tiny-test" in execute(asked, tmp_path, env).stdout
    [code] = [b for b in blocks(page("reference/python.md")) if b.marker == "runs after the tutorial"]
    done = subprocess.run(
        [sys.executable, "-c", code.body], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bert-tiny-test") == verdicts.count("verified")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXECUTED)
def test_the_commands_of_a_page_run(name: str, tmp_path: Path, env: dict[str, str]) -> None:
    ran = [execute(block, tmp_path, env) for block in shell(name) if block.marker == "runs"]
    assert ran
    assert all(done.stdout for done in ran)


def install(guide: str, folder: Path, env: dict[str, str]) -> dict[str, str]:
    """The files of a guide, installed as pip would: a module, and a distribution with its entry points."""
    marked = [(b.marker or "", b.body) for b in blocks(page(guide))]
    files = {marker.removeprefix("file: "): body for marker, body in marked if marker.startswith("file: ")}
    project = tomllib.loads(files.pop("pyproject.toml"))
    [module] = files
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"] == [module]
    packages = folder / "site"
    info = packages / f"{project['project']['name'].replace('-', '_')}-{project['project']['version']}.dist-info"
    info.mkdir(parents=True)
    (packages / module).write_text(files[module])
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['project']['name']}\nVersion: {project['project']['version']}\n"
    )
    points = project["project"]["entry-points"]
    (info / "entry_points.txt").write_text(
        "\n".join(f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in named.items()) for group, named in points.items())
    )
    return {**env, "PYTHONPATH": f"{packages}:{ROOT}"}


@pytest.mark.slow
def test_the_guide_to_a_platform_gives_one_that_runs_and_that_says_what_it_is(
    tmp_path: Path, env: dict[str, str]
) -> None:
    env = install("guides/add-a-platform.md", tmp_path, env)
    [block] = [b for b in shell("guides/add-a-platform.md") if b.marker == "runs"]
    # Where another program held the cores, a larger batch can seem to take no longer: that contradicts any run.
    for left in (2, 1, 0):
        try:
            said = execute(block, tmp_path, env).stdout
            break
        except AssertionError as error:
            if not left or "contradicted" not in str(error):
                raise
    assert said.startswith("bert-tiny-test on Acme NPU 1")
    assert re.search(r"^  verdict +simulated", said, re.MULTILINE)
    assert "Acme's simulator computes on the host" in said


@pytest.mark.slow
def test_the_guide_to_a_model_gives_one_that_runs(tmp_path: Path, env: dict[str, str]) -> None:
    env = install("guides/add-a-model.md", tmp_path, env)
    [block] = [b for b in shell("guides/add-a-model.md") if b.marker == "runs"]
    said = execute(block, tmp_path, env).stdout
    assert "acme-mini on " in said
    assert "32 tokens" in said


def test_the_files_that_the_guides_name_are_there() -> None:
    for guide in ("guides/add-a-platform.md", "guides/add-a-model.md"):
        named = re.findall(r"`((?:hwbench_mlflow|tests|docs)/[\w./]*)`", page(guide))
        assert named
        assert all((ROOT / path).exists() for path in named)


def test_every_rule_of_the_verdict_is_told_in_the_trust_model() -> None:
    """The names that findings carry, read from the code: a rule that is added is one that has to be explained."""
    code = "".join(
        (ROOT / "hwbench_mlflow" / f"{name}.py").read_text() for name in ("verdict", "scenarios", "evidence")
    )
    rules = set(re.findall(r'\brule(?:: str)?(?:, \w+)? = "([\w-]+)"|rule="([\w-]+)"|\.add\(\s*"([\w-]+)"', code))
    names = {name for found in rules for name in found if name}
    assert {"shape", "samples", "clocks", "roofline", "scaling", "binding"} <= names
    told = page("trust.md").partition("## The rules")[2].partition("\n## ")[0]
    assert {name for name in names if f"`{name}`" not in told} <= {"server", "multistream", "files", "scenario"}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_that_are_there(name: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page(name)):
        assert ((DOCS / name).parent / target).exists(), target


def test_every_page_is_in_the_navigation() -> None:
    assert set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())) == set(PAGES)


def test_the_wheel_needs_nothing_of_the_documentation() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["hwbench_mlflow"]
    assert not [path for path in wheel["force-include"] if path.startswith("docs")]
    for path in (ROOT / "hwbench_mlflow").rglob("*.py"):
        assert not re.search(r"[\"']docs[/\"']", path.read_text(encoding="utf-8")), path


@pytest.mark.slow
def test_the_site_builds_strictly_and_asks_no_other_host_for_anything(tmp_path: Path) -> None:
    needed = ("mkdocs", "material", "mkdocs_click", "mkdocstrings_handlers")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing and "docs" in REQUIRED:
        pytest.fail(f"{', '.join(missing)} are required here")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}: pip install '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    built = list((tmp_path / "site").rglob("*.html"))
    assert len(built) > len(PAGES)  # and a page for what is not found
    for path in built:
        html = path.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]+src=[\"']?(?:https?:)?//", html)
        sheet = r"<link[^>]+rel=[\"']?(?:stylesheet|preconnect|preload)[^>]+href=[\"']?(?:https?:)?//"
        fetched += re.findall(sheet, html)
        assert not fetched, path
        assert "{{ " not in html, path
    reference = (tmp_path / "site" / "reference" / "tables" / "index.html").read_text(encoding="utf-8")
    assert all(name in reference for name in ("real_results", "quarantine", "mlflow.run_events", "latency_ms_p50"))
    commands = (tmp_path / "site" / "reference" / "cli" / "index.html").read_text(encoding="utf-8")
    assert "Sentinel" not in commands
    assert re.search(r"^hwbench verify RUN_ID$\n</code></pre>", commands, re.MULTILINE)  # an example, on a line
    assert all(option in commands for option in ("--latency-bound-ms", "--fail-on-regression", "--rotate"))
    assert "tpot_ms_p50" in (tmp_path / "site" / "reference" / "metrics" / "index.html").read_text(encoding="utf-8")
    assert "load_results" in (tmp_path / "site" / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    assert not (tmp_path / "site" / "hooks.py").exists()
