"""``hwbench replicate`` on this machine: what it refuses, what it measures again, and what it says of the two."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwbench_mlflow import probing, runner
from hwbench_mlflow.evidence import seal
from hwbench_mlflow.keystore import load_keyring, signing_key, trust
from hwbench_mlflow.model import Availability, Device, RunRequest
from hwbench_mlflow.runner import Measured
from hwbench_mlflow.tracking import Store
from tests.commands import Call, only, said
from tests.honest import DEVICES, honest
from tests.test_cli_batch import measured

replace = dataclasses.replace
Change = Callable[[Measured], Measured]
asked: list[RunRequest] = []


def logged(store_uri: str, result: Any, samples: Any) -> str:
    store = Store(store_uri)
    run_id = store.start_pushed(result)
    store.log_result(run_id, seal(result, samples, signing_key()), signing_key(), load_keyring())
    return run_id


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change, str], None]:
    """Let this machine have a device of that name, and measure at once what the change makes of an honest result."""
    asked.clear()

    def be(change: Change, name: str = "Test CPU") -> None:
        def run(request: RunRequest, progress: Any, before_timing: Callable[[], None]) -> Measured:
            asked.append(request)
            before_timing()
            return change(measured(request))

        def probe(platforms: Any, **settings: Any) -> list[Availability]:
            device: Device = replace(DEVICES[platforms[0]], name=name)
            return [replace(honest(platforms[0])[0].availability, devices=(device,))]

        monkeypatch.setattr(runner, "run", run)
        monkeypatch.setattr(probing, "probe_isolated", probe)

    return be


def same(found: Measured) -> Measured:
    return found


def elsewhere(found: Measured) -> Measured:
    boot = "99999999-2222-3333-4444-555555555555"
    result = replace(
        found.result, host=replace(found.result.host, host_id="another", boot_id=boot),
        availability=replace(found.result.availability, boot_id=boot),
    )  # fmt: skip
    return Measured(result=result, samples=found.samples)


def test_another_machine_that_agrees_replicates_and_the_new_run_names_the_old_one(
    call: Call, store_uri: str, machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, public = logged(store_uri, *honest()), signing_key().public
    machine(elsewhere)
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path / "other"))
    trust(public)
    code, out, err = call("replicate", first, "--json")
    document = json.loads(out)
    assert (code, document["agrees"], document["objections"], err) == (0, True, [], "")
    assert document["ratio"] == pytest.approx(1)
    again = Store(store_uri).run_index(document["run_id"])
    assert (again.tags["hwbench.replicates"], again.tags["verdict"]) == (first, "verified")
    assert (asked[0].workload.weights, asked[0].workload.sequence_length) == ("random", 128), (
        "what its defaults came to"
    )
    code, out, _ = call("replicate", first)
    assert code == 0
    assert "replicated yes, once both are published" in out


def test_the_same_machine_replicates_nothing_and_says_so(call: Call, store_uri: str, machine: Any) -> None:
    first = logged(store_uri, *honest())
    machine(same)
    code, out, _ = call("replicate", first)
    assert code == 3
    assert "replicated no" in out
    assert "host_id is the same: it is no other machine, or no other key" in out
    assert "key_id is the same" in out


def test_what_is_not_verified_is_not_replicated_and_nothing_is_measured(
    call: Call, store_uri: str, machine: Any
) -> None:
    machine(elsewhere)
    result, samples = honest()
    device = replace(result.device, emulation_reason="software")
    facts = replace(result.workers[0].facts, device=device)
    simulated = replace(
        result, device=device, is_simulated=True, simulation_reason="software",
        availability=replace(result.availability, devices=(device,)),
        workers=(replace(result.workers[0], facts=facts),),
    )  # fmt: skip
    edited = logged(store_uri, result, samples)
    Store(store_uri).client.set_tag(edited, "hardware", "cuda")
    for run, state in ((logged(store_uri, simulated, samples), "simulated"), (edited, "contradicted")):
        code, out, err = call("replicate", run)
        assert (code, out, asked) == (3, "", [])
        assert f"run {run} is {state}, so it cannot be replicated" in only(said(err))


def test_another_product_is_refused_before_it_is_measured(call: Call, store_uri: str, machine: Any) -> None:
    first = logged(store_uri, *honest())
    machine(elsewhere, "Other CPU")
    code, out, err = call("replicate", first)
    assert (code, out, asked) == (3, "", [])
    assert "this machine has Other CPU, and the original ran on Test CPU" in only(said(err))
