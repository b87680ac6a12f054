"""The MLproject files: what MLflow makes of them, and that each parameter is an option of a command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from hwbench_mlflow.cli.main import root
from tests.commands import ROOT

pytestmark = pytest.mark.usefixtures("blank_store")  # MLflow imported, without its own warnings

FOLDERS = [ROOT, *sorted(path.parent for path in (ROOT / "projects").glob("*/MLproject"))]
COMMANDS = re.compile(r"^(?:python -m hwbench_mlflow|hwbench) (\w+)(.*)$")
PLACED = re.compile(r"(--[\w-]+) \{(\w+)\}")


def spec(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((folder / "MLproject").read_text())
    return loaded


def entry_points() -> list[Any]:
    return [
        pytest.param(folder, name, id=f"{folder.relative_to(ROOT)}:{name}")
        for folder in FOLDERS
        for name in spec(folder)["entry_points"]
    ]


def test_the_project_and_those_under_projects_are_found() -> None:
    assert len(FOLDERS) >= 2
    assert {"main", "devices"} <= spec(ROOT)["entry_points"].keys()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_mlflow_still_takes_an_empty_spark_job_for_a_project_without_an_environment(folder: Path) -> None:
    """Else bare ``mlflow run .`` builds a virtualenv through pyenv, or dies and leaves its run RUNNING."""
    from mlflow.projects._project_spec import load_project
    from mlflow.projects.backend.local import _env_type_to_env_manager

    loaded = load_project(str(folder))
    assert (loaded.env_type, loaded.env_config_path, loaded.docker_env) == (None, None, None)
    assert _env_type_to_env_manager(loaded.env_type) is None
    assert loaded.databricks_spark_job_spec.python_file is None


def test_the_same_project_without_that_key_would_get_an_environment(tmp_path: Path) -> None:
    """The check above bites."""
    from mlflow.projects._project_spec import load_project
    from mlflow.projects.backend.local import _env_type_to_env_manager

    text = (ROOT / "MLproject").read_text().replace("databricks_spark_job: {}\n", "")
    (tmp_path / "MLproject").write_text(text)
    assert _env_type_to_env_manager(load_project(str(tmp_path)).env_type) == "virtualenv"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_nothing_lies_beside_it_that_mlflow_would_take_for_an_environment(folder: Path) -> None:
    assert not [name for name in ("python_env.yaml", "conda.yaml") if (folder / name).exists()]


@pytest.mark.parametrize(("folder", "name"), entry_points())
def test_each_parameter_is_an_option_of_the_command_and_its_default_is_taken(folder: Path, name: str) -> None:
    entry = spec(folder)["entry_points"][name]
    parameters = entry.get("parameters", {})
    matched = COMMANDS.match(entry["command"])
    assert matched, entry["command"]
    command = root.get_command(click.Context(root), matched[1])
    assert command is not None
    placed = {parameter: option for option, parameter in PLACED.findall(matched[2])}
    assert placed.keys() == parameters.keys(), "a parameter that goes nowhere, or a place without one"
    options = {option: param for param in command.params for option in param.opts}
    for parameter, described in parameters.items():
        assert described["type"] != "path", "MLflow refuses path parameters beside databricks_spark_job"
        assert placed[parameter] in options
    given = [word for parameter, option in placed.items() for word in (option, parameters[parameter]["default"])]
    fixed = PLACED.sub("", matched[2]).split()
    with command.make_context(matched[1], [*given, *fixed]) as context:
        assert context.params


def test_mlflow_fills_the_command_in_and_quotes_what_it_is_given() -> None:
    from mlflow.projects._project_spec import load_project

    main = load_project(str(ROOT)).get_entry_point("main")
    command = main.compute_command({"model": "a; rm -rf /", "hardware": "cpu"}, None)
    assert "--model 'a; rm -rf /' --hardware cpu --device '' " in command
