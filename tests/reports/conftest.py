"""A published file with honest results of every kind and simulated ones, and the pages made of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hwbench_mlflow.cli.gate import gate
from hwbench_mlflow.cli.report import report
from hwbench_mlflow.keystore import load_keyring
from hwbench_mlflow.model import SCHEMA_VERSION, Failure, FailureCategory, Platform
from hwbench_mlflow.warehouse.readers.sqlite import SqliteReader
from hwbench_mlflow.warehouse.star import Star
from hwbench_mlflow.warehouse.sync import sync
from tests.gates.conftest import emulated, replace
from tests.gates.corpus import HOSTILE, honest_results, named
from tests.honest import honest
from tests.warehouse.conftest import empty_store  # noqa: F401 -- a fixture
from tests.warehouse.results import Lab, distinct, make_lab, same

SIMULATION = "SwiftShader"
FAILURE = "no driver <script>alert(1)</script>"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Lab, Path]:  # noqa: F811
    """A lab and the folder with its warehouse and what was published of it. Tests copy it, and never touch this."""
    folder = tmp_path_factory.mktemp("reports")
    store = Path(shutil.copyfile(empty_store, folder / "mlflow.db"))
    lab = make_lab(store, folder / "home", folder / "artifacts")
    for name, (result, samples) in honest_results().items():
        # A configuration of its own: a page shows the last result of each.
        change = named("noisy-model") if name == "noisy" else same
        lab.add(0, lambda _r, _s, r=result, s=samples, change=change: change(r, s))
    for seed in range(300, 303):
        lab.add(seed)
    lab.add(400, emulated)
    for seed, (name, text) in enumerate(HOSTILE.items(), start=401):
        del name
        lab.add(seed, lambda r, s, text=text: emulated(*named(text)(r, s)))
    lab.client.delete_tag(lab.add(500), "is_simulated")
    absent = distinct(0, Platform.CUDA)[0].request
    found = replace(honest(Platform.CUDA)[0].availability, probe_id="ee" * 16, devices=(), checks=())
    lab.log.fail(
        lab.log.start("failed"),
        Failure(
            schema_version=SCHEMA_VERSION, category=FailureCategory.NO_DRIVER,
            reason=FAILURE, remedy=None, request=absent,
            availability=found, host=honest()[0].host,
        ),
    )  # fmt: skip
    here = folder / "here"
    here.mkdir()
    sync(SqliteReader(store), here / "hwbench.duckdb", judge=Star(load_keyring(lab.home)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("HWBENCH_HOME", str(lab.home))
        done = CliRunner().invoke(gate, [])
    assert done.exit_code == 0, done.output
    return lab, here


@pytest.fixture
def here(made: tuple[Lab, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder, the current one, with a warehouse and a published file."""
    for name in ("hwbench.duckdb", "published.duckdb"):
        shutil.copyfile(made[1] / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWBENCH_HOME", str(made[0].home))
    return tmp_path


@pytest.fixture
def reported(here: Path) -> Callable[..., Result]:
    """``hwbench report`` in that folder."""
    del here
    return lambda *arguments: CliRunner().invoke(report, list(arguments))
