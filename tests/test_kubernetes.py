"""MLflow Projects' Kubernetes backend with our template: what MLflow's own code makes of it. No cluster is asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml

from hwbench_mlflow.cli.main import root
from tests.commands import ROOT

FOLDER = ROOT / "projects" / "kubernetes"
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``mlflow.projects.kubernetes``. The client of Kubernetes need not be installed: nothing is sent."""
    if "kubernetes" not in sys.modules:
        for name in ("kubernetes", "kubernetes.config", "kubernetes.config.config_exception"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        sys.modules["kubernetes.config.config_exception"].ConfigException = Exception  # type: ignore[attr-defined]
    monkeypatch.delitem(sys.modules, "mlflow.projects.kubernetes", raising=False)
    from mlflow.projects import kubernetes

    return kubernetes


def submitted(backend: ModuleType, entry: str, parameters: dict[str, str]) -> dict[str, Any]:
    """The job that ``mlflow run projects/kubernetes/project -b kubernetes`` would create."""
    from mlflow.projects import _parse_kubernetes_config
    from mlflow.projects._project_spec import load_project
    from mlflow.projects.docker import validate_docker_env
    from mlflow.projects.utils import get_entry_point_command

    project = load_project(str(FOLDER / "project"))
    validate_docker_env(project)
    config = _parse_kubernetes_config(json.loads((FOLDER / "backend.json").read_text()))
    command = get_entry_point_command(project, entry, parameters, None)
    made: dict[str, Any] = backend._get_kubernetes_job_definition(
        project.name, f"{config['repository-uri']}:abc", DIGEST, backend._get_run_command(command),
        {"MLFLOW_RUN_ID": "r", "MLFLOW_TRACKING_URI": "http://lab:5000", "MLFLOW_EXPERIMENT_ID": "0"},
        config["kube-job-template"],
    )  # fmt: skip
    return made


@pytest.mark.parametrize(
    ("entry", "parameters", "command"),
    [
        ("main", {}, "hwbench run --model bert --hardware cpu --batch-size 1 --profile standard --weights auto"),
        (
            "main",
            {"hardware": "cuda", "batch_size": "1,8"},
            "hwbench run --model bert --hardware cuda --batch-size 1,8 --profile standard --weights auto",
        ),
        (
            "batch",
            {"models": "bert-tiny,gpt2"},
            "hwbench batch --models bert-tiny,gpt2 --hardware cpu --batch-sizes 1,4 --profile standard "
            "--weights auto --yes",
        ),
    ],
)
def test_mlflow_fills_in_the_template_and_the_command_is_one_of_ours(
    entry: str, parameters: dict[str, str], command: str, backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    job = submitted(backend, entry, parameters)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == command.split(), "started without a shell: word by word, none of them quoted"
    assert container["image"] == f"registry.example/lab/hwbench:abc@{DIGEST}"
    assert "{replaced" not in json.dumps(job)
    assert {e["name"]: e.get("value") for e in container["env"]}["MLFLOW_TRACKING_URI"] == "http://lab:5000"
    program, name, *words = container["command"]
    assert program == "hwbench"
    ours = root.get_command(click.Context(root), name)
    assert ours is not None
    ours.make_context(name, list(words))  # parsed, not run


def test_one_benchmark_a_node_at_a_time_with_the_nodes_own_key_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    job = yaml.safe_load((FOLDER / "job.yaml").read_text())
    pod = job["spec"]["template"]
    labels = pod["metadata"]["labels"]
    (rule,) = pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert (rule["labelSelector"]["matchLabels"], rule["topologyKey"]) == (labels, "kubernetes.io/hostname")
    assert (job["spec"]["backoffLimit"], pod["spec"]["restartPolicy"]) == (0, "Never")
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    hosts = {volume["name"]: volume["hostPath"]["path"] for volume in pod["spec"]["volumes"]}
    home = next(e["value"] for e in container["env"] if e["name"] == "HWBENCH_HOME")
    assert mounted["hwbench-home"] == home
    assert hosts["machine-id"] == mounted["machine-id"] == "/etc/machine-id"


def test_mlflow_refuses_a_configuration_without_our_template(tmp_path: Path) -> None:
    from mlflow.exceptions import ExecutionException
    from mlflow.projects import _parse_kubernetes_config

    with pytest.raises(ExecutionException, match="Could not find 'kube-job-template-path'"):
        _parse_kubernetes_config({"repository-uri": "x", "kube-job-template-path": str(tmp_path / "absent.yaml")})


def test_an_empty_parameter_would_arrive_in_quotes_so_none_of_ours_is(backend: ModuleType) -> None:
    assert backend._get_run_command(["hwbench run --device ''"]) == ["hwbench", "run", "--device", "''"]
    project = yaml.safe_load((FOLDER / "project" / "MLproject").read_text())
    defaults = [p["default"] for e in project["entry_points"].values() for p in e["parameters"].values()]
    assert all(default and default.split() == [default] for default in defaults)
