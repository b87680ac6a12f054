"""``hwbench run --simulate``, ``hwbench simulate`` and ``hwbench roofline``: what they say, refuse and leave behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hwbench_mlflow import runner
from hwbench_mlflow.cli import estimates
from hwbench_mlflow.cli.simulate import Comparison, summary_of
from hwbench_mlflow.documents import EstimateJudgement, judge_estimate_run
from hwbench_mlflow.estimate import Interval
from hwbench_mlflow.keystore import load_keyring
from hwbench_mlflow.metrics import ESTIMATE_METRICS, METRICS, ROOFLINE_METRICS
from hwbench_mlflow.model import FailureCategory
from hwbench_mlflow.tracking import Store
from tests.commands import Call, only, said
from tests.test_cli_run import runs

if TYPE_CHECKING:
    from mlflow.entities import Run

H100 = ("run", "--model", "bert-tiny", "--hardware", "cuda", "--precision", "bf16", "--simulate", "h100-sxm")


def finished(store_uri: str) -> Run:
    [run] = runs(store_uri)
    assert run.info.status == "FINISHED"
    return run


def test_an_estimate_says_so_everywhere(call: Call, store_uri: str) -> None:
    code, out, err = call(*H100)
    assert code == 0
    banner = "SIMULATED: roofline estimate from datasheet h100-sxm; nothing was measured"
    assert banner in out.splitlines()[0]
    assert banner in err
    assert "verdict     simulated" in out
    run = finished(store_uri)
    tags = run.data.tags
    assert run.info.run_name.startswith("SIMULATED-")
    assert (tags["is_simulated"], tags["verdict"]) == ("true", "simulated")
    assert (tags["hardware_available"], tags["availability_verified"]) == ("false", "false")
    assert tags["simulation_reason"] == "roofline estimate from datasheet h100-sxm; nothing was measured"
    assert tags["hwbench.role"] == "estimate"
    assert tags["mlflow.note.content"].startswith("## SIMULATED")
    assert run.data.metrics.keys() == ESTIMATE_METRICS.keys()
    assert not run.data.metrics.keys() & METRICS.keys()
    index, files = Store(store_uri).read_run(run.info.run_id)
    assert sorted(files) == ["attestation.dsse.json", "binding.dsse.json", "estimate.json"]
    judged = judge_estimate_run(files, index, load_keyring())
    assert (str(judged.verdict.state), judged.verdict.reasons) == ("simulated", ())
    assert judged.estimate is not None
    assert judged.estimate.is_simulated


def test_verify_recomputes_it_and_it_is_never_verified(call: Call, store_uri: str) -> None:
    call(*H100)
    run_id = finished(store_uri).info.run_id
    code, out, _ = call("verify", run_id)
    assert code == 3
    assert f"{run_id}: simulated" in out
    assert "every number recomputes from its own figures" in out
    Store(store_uri).client.set_tag(run_id, "is_simulated", "false")
    code, out, _ = call("verify", run_id, "--json")
    [document] = json.loads(out)["estimates"]
    assert (code, document["verdict"], document["is_simulated"]) == (3, "contradicted", True)


def test_several_batch_sizes_are_nested_runs(call: Call, store_uri: str) -> None:
    code, out, _ = call(*H100, "--batch-size", "1,8", "--json")
    assert code == 0
    found = json.loads(out)["estimates"]
    assert [one["workload"]["batch_size"] for one in found] == [1, 8]
    parents = [r for r in runs(store_uri) if r.data.tags.get("hwbench.role") == "parent"]
    assert len(parents) == 1
    assert len(runs(store_uri)) == 3
    code, out, _ = call("verify", parents[0].info.run_id)
    assert code == 3
    assert out.count(": simulated") == 2


REFUSED = {
    "hardware of another kind": (("--hardware", "rocm"), "is no rocm device"),
    "no such datasheet": (("--simulate", "h900"), "there is no datasheet"),
    "a device": (("--device", "cuda:0"), "--device is for measurements"),
    "threads": (("--threads", "2"), "--threads is for measurements"),
    "a file": (("--out", "x.json"), "--out is for measurements"),
    "offline": (("--scenario", "offline"), "latency scenario"),
    "published weights": (("--weights", "pretrained"), "loads no weights"),
    "no such model": (("--model", "./none"), "there is no folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_estimated_is_a_usage_error_and_leaves_no_run(
    case: str,
    call: Call,
    store_uri: str,
) -> None:
    more, reason = REFUSED[case]
    code, out, err = call(*H100, *more)
    assert (code, out) == (2, "")
    assert reason in only(said(err))
    assert runs(store_uri) == []


def test_a_precision_without_a_sourced_peak_is_said_in_one_line(call: Call) -> None:
    code, _, err = call("run", "--model", "bert-tiny", "--hardware", "mps", "--simulate", "m3-max-40core")
    assert code == 2
    assert "cannot be estimated in fp32" in only(said(err))


def test_a_model_that_does_not_fit_is_refused(call: Call, store_uri: str, tmp_path: Path) -> None:
    llama = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
        "max_position_embeddings": 4096,
    }  # fmt: skip
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text(json.dumps(llama))
    asked = ("run", "--model", str(tmp_path / "llama"), "--hardware", "cuda", "--simulate", "l4", "--precision")
    code, _, err = call(*asked, "fp32")
    assert code == 1
    assert "does not fit: it needs at least 27 GB in fp32" in only(said(err))
    [run] = runs(store_uri)
    assert run.info.status == "FAILED"
    assert run.data.metrics == {}
    assert run.data.tags["hwbench.failure_category"] == FailureCategory.MODEL_TOO_LARGE
    assert run.data.tags["hwbench.precision"] == "fp32"
    assert call(*asked, "bf16")[0] == 0  # 13.5 GB, of 24


def test_absent_hardware_never_leads_to_an_estimate(
    call: Call,
    store_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("an estimate was made that nobody asked for")

    monkeypatch.setattr(estimates, "estimate_runs", never)
    monkeypatch.setenv("HWBENCH_SIMULATE", "h100-sxm")
    code, out, _ = call("run", "--model", "bert-tiny", "--hardware", "cuda", "--profile", "smoke")
    assert (code, out) == (4, "")
    [run] = runs(store_uri)
    assert run.data.metrics == {}
    assert run.data.tags["hwbench.role"] == "failure"
    assert "estimator" not in Path(runner.__file__).read_text()


def test_datasheets_are_listed_and_shown_with_their_sources(call: Call) -> None:
    code, out, _ = call("simulate")
    assert code == 0
    assert "h100-sxm" in out
    assert "nothing: no sourced peak" in out
    code, out, _ = call("simulate", "h100-sxm")
    assert "printed as 1979 with sparsity; dense is half" in out
    assert "read 2026-11-25" in out
    code, out, _ = call("simulate", "--json")
    assert {"name", "sources", "peak_tflops", "sha256", "can_estimate"} <= json.loads(out)["datasheets"][0].keys()
    assert call("simulate", "h100-sxm", "--check")[0] == 2


# --- roofline -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_roofline_of_this_cpu_is_measured_verified_and_shown(call: Call, store_uri: str) -> None:
    code, out, err = call("roofline", "--hardware", "cpu", "--seconds", "0.1", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["verdict"] == "verified", document["reasons"]
    assert document["metrics"].keys() <= ROOFLINE_METRICS.keys()
    assert document["metrics"]["peak_tflops_fp32"] > 0
    assert document["metrics"]["memory_bandwidth_gb_per_s"] > 0
    run = finished(store_uri)
    assert run.data.metrics == pytest.approx(document["metrics"])
    assert run.data.tags["hwbench.role"] == "roofline"
    assert "roofline.png" in {a.path for a in Store(store_uri).client.list_artifacts(run.info.run_id)}
    assert call("verify", run.info.run_id)[0] == 0
    Store(store_uri).client.log_metric(run.info.run_id, "peak_tflops_fp32", 99.0)
    code, out, _ = call("verify", run.info.run_id)
    assert code == 3
    assert "contradicted" in out


@pytest.mark.slow
def test_openvinos_cpu_has_the_same_roofline(call: Call, store_uri: str) -> None:
    code, out, err = call("roofline", "--hardware", "openvino", "--precision", "fp32", "--seconds", "0.05")
    assert code == 0, err
    assert "verdict     verified" in out
    assert "bf16" not in out


def test_a_roofline_of_absent_hardware_is_a_failed_run(call: Call, store_uri: str) -> None:
    code, out, err = call("roofline", "--hardware", "rocm")
    assert (code, out) == (4, "")
    assert "rocm is unavailable" in only(said(err))
    [run] = runs(store_uri)
    assert (run.info.status, run.data.metrics) == ("FAILED", {})


def test_precisions_are_a_list_with_fp32_in_it(call: Call) -> None:
    assert call("roofline", "--hardware", "cpu", "--precision", "fp64")[0] == 2
    assert call("roofline", "--hardware", "cpu", "--precision", "fp32,fp32")[0] == 2


# --- check --------------------------------------------------------------------------------------


def comparison(measured_ms: float, *, stable: bool = True) -> Comparison:
    return Comparison(
        run_id="r", model="m", platform="cpu", device="d", batch_size=1, precision="fp32", sheet="s", bound="compute",
        estimate=Interval(low=5.0, expected=10.0, high=20.0), measured_ms=measured_ms, stable=stable,
    )  # fmt: skip


def test_the_error_is_of_what_was_expected() -> None:
    assert comparison(8.0).error_percent == pytest.approx(25.0)
    assert comparison(20.0).error_percent == pytest.approx(-50.0)
    assert comparison(20.0).inside
    assert not comparison(20.1).inside


def test_a_summary_of_nothing_knows_nothing() -> None:
    assert summary_of([])["median_absolute_error_percent"] is None
    found = summary_of([comparison(8.0), comparison(20.0, stable=False), comparison(100.0, stable=False)])
    assert (found["compared"], found["inside"], found["stable"]) == (3, 2, 1)
    assert found["median_absolute_error_percent"] == pytest.approx(50.0)
    assert found["median_absolute_error_percent_of_stable"] == pytest.approx(25.0)


def test_an_estimates_judgement_is_no_results() -> None:
    assert not hasattr(EstimateJudgement, "result")
    assert "hwbench_mlflow.cli.estimates" in sys.modules
