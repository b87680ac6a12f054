"""From files and an index to a verdict: what is bound to what, and what an edit of each does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench_mlflow import evidence
from hwbench_mlflow.attest import RESULT_PREDICATE, Keyring, SigningKey, canonical_json, make_statement, sign
from hwbench_mlflow.bundle import read_bundle, write_bundle
from hwbench_mlflow.codec import encode, sha256
from hwbench_mlflow.errors import CorruptEvidence, UsageError
from hwbench_mlflow.evidence import RunIndex, bind, judge, seal
from hwbench_mlflow.index import index_of
from hwbench_mlflow.keystore import load_keyring, revoke, signing_key
from hwbench_mlflow.model import SCHEMA_VERSION, VerdictState
from tests.honest import honest

RUN_ID = "f" * 32
replace = dataclasses.replace


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return signing_key(tmp_path / "keys")


@pytest.fixture
def keyring(tmp_path: Path, key: SigningKey) -> Keyring:
    return load_keyring(tmp_path / "keys")


Logged = tuple[dict[str, bytes], RunIndex]


def logged(key: SigningKey, run_id: str = RUN_ID) -> Logged:
    """What a store holds of an honest run."""
    result, samples = honest()
    files = seal(result, samples, key)
    files[evidence.BINDING_FILE] = bind(files, result.result_id, run_id, result.finished_at, key)
    verdict = judge({n: files[n] for n in evidence.EVIDENCE_FILES[:3]}, None, Keyring({key.public.keyid: key.public}))
    index = index_of(result, sha256(files[evidence.RESULT_FILE]), verdict.verdict)
    run = RunIndex(
        run_id=run_id, status="FINISHED", params=index.params, tags={**index.tags, "mlflow.user": "me"},
        metrics={name: [value] for name, value in index.metrics.items()},
    )  # fmt: skip
    return files, run


def test_an_honest_run_is_verified(key: SigningKey, keyring: Keyring) -> None:
    judged = judge(*logged(key), keyring)
    assert judged.verdict.reasons == ()
    assert judged.verdict.state is VerdictState.VERIFIED


def tag(name: str, value: str) -> Callable[[Logged], Logged]:
    return lambda run: (run[0], replace(run[1], tags={**run[1].tags, name: value}))


def untag(name: str) -> Callable[[Logged], Logged]:
    return lambda run: (run[0], replace(run[1], tags={k: v for k, v in run[1].tags.items() if k != name}))


def param(name: str, value: str) -> Callable[[Logged], Logged]:
    return lambda run: (run[0], replace(run[1], params={**run[1].params, name: value}))


def points(name: str, *values: float) -> Callable[[Logged], Logged]:
    return lambda run: (run[0], replace(run[1], metrics={**run[1].metrics, name: list(values)}))


def file(name: str, change: Callable[[bytes], bytes]) -> Callable[[Logged], Logged]:
    return lambda run: ({**run[0], name: change(run[0][name])}, run[1])


def without(name: str) -> Callable[[Logged], Logged]:
    return lambda run: ({k: v for k, v in run[0].items() if k != name}, run[1])


def status(value: str) -> Callable[[Logged], Logged]:
    return lambda run: (run[0], replace(run[1], status=value))


C, U = VerdictState.CONTRADICTED, VerdictState.UNVERIFIED
EDITS: list[tuple[str, Callable[[Logged], Logged], VerdictState, str]] = [
    ("is_simulated", tag("is_simulated", "true"), C, "tag is_simulated says 'true'"),
    ("hardware", tag("hardware", "cuda"), C, "tag hardware says 'cuda'"),
    ("model", tag("model", "gpt2"), C, "tag model says 'gpt2'"),
    ("reason-added", tag("simulation_reason", "estimate"), C, "tag simulation_reason"),
    ("noise-added", tag("hwbench.noise", "none"), C, "tag hwbench.noise"),
    ("verdict-tag", tag("verdict", "simulated"), C, "tag verdict says 'simulated'"),
    ("tag-deleted", untag("is_simulated"), U, "tag is_simulated is missing"),
    ("param-added", param("hwbench.compute", "h100"), C, "param hwbench.compute"),
    ("metric-again", points("latency_ms_p50", 10.04995, 1.0), C, "metric latency_ms_p50"),
    ("metric-twice", points("sample_count", 1000.0, 1000.0), C, "logged 2 times"),
    ("metric-nan", points("latency_ms_p50", float("nan")), C, "metric latency_ms_p50"),
    ("metric-invented", points("energy_j_per_item", 0.001), C, "energy_j_per_item"),
    ("metric-lost", points("latency_ms_p50"), U, "metric latency_ms_p50 is missing"),
    ("samples-edited", file("samples.json", lambda d: d.replace(b"10000000", b"10000001", 1)), C, "digests"),
    ("samples-gone", without("samples.json"), U, "samples.json is missing"),
    ("signed-other-names", lambda r: ({**r[0], "samples.json": b"{}"}, r[1]), C, "not these files"),
    ("result-edited", file("result.json", lambda d: d.replace(b"Test CPU", b"Best CPU")), C, "not these files"),
    ("result-garbage", file("result.json", lambda d: d[:-9]), C, "is not the one this run was logged with"),
    ("result-gone", without("result.json"), U, "result.json is missing"),
    ("unsigned", without("attestation.dsse.json"), U, "not signed"),
    ("unbound", without("binding.dsse.json"), U, "belongs to this run"),
    ("swapped-envelopes", lambda r: ({**r[0], "attestation.dsse.json": r[0]["binding.dsse.json"]}, r[1]), C,
     "not a benchmark result"),
    ("signature-garbage", file("attestation.dsse.json", lambda d: b"{}"), U, "corrupt"),
    ("still-running", status("RUNNING"), U, "RUNNING"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "state", "reason"), [e[1:] for e in EDITS], ids=[e[0] for e in EDITS])
def test_an_edit_is_seen(
    edit: Callable[[Logged], Logged], state: VerdictState, reason: str, key: SigningKey, keyring: Keyring
) -> None:
    found = judge(*edit(logged(key)), keyring).verdict
    assert found.state is state, found.reasons
    assert any(reason in said for said in found.reasons), found.reasons


NUMBERS = [0, -1, 1, 2**31, 2**63, 10**30, 10**400, 0.0, -0.5, 1e-300, 1e200, -1e308, 1e308]
"""What a forger may write where a number is."""


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of everything that can be made absurd in decoded JSON: numbers, and lists (which can be emptied)."""
    found = []
    if isinstance(value, dict):
        for name, inner in value.items():
            found += _leaves(inner, (*path, name))
    elif isinstance(value, list):
        found.append(path)
        if value:
            found += _leaves(value[0], (*path, 0))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found.append(path)
    return found


def _with(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    if not path:
        return [] if isinstance(value, list) else new
    if isinstance(value, list):
        at = int(path[0])
        return [*value[:at], _with(value[at], path[1:], new), *value[at + 1 :]] if value else value
    return {**value, path[0]: _with(value[path[0]], path[1:], new)} if path[0] in value else value


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_signed_but_absurd_result_is_a_verdict_and_never_a_crash(
    data: st.DataObject, key: SigningKey, keyring: Keyring
) -> None:
    """Whoever has a trusted key may sign anything; what cannot be computed with must not stop a sync of the rest."""
    result, samples = (json.loads(encode(part)) for part in honest())
    for _ in range(data.draw(st.integers(1, 3))):
        whole = {"result": result, "samples": samples}
        whole = _with(whole, data.draw(st.sampled_from(_leaves(whole))), data.draw(st.sampled_from(NUMBERS)))
        result, samples = whole["result"], whole["samples"]
    raw = canonical_json(samples)
    result["samples_sha256"] = sha256(raw)
    files = {"result.json": canonical_json(result), "samples.json": raw}
    statement = make_statement(
        {name: sha256(content) for name, content in files.items()},
        RESULT_PREDICATE,
        {"result_id": result["result_id"]},
    )
    files["attestation.dsse.json"] = sign(statement, key)
    _, run = logged(key)
    judge(files, None, keyring)
    run = replace(run, params={**run.params, evidence.DIGEST_PARAM: sha256(files["result.json"])})
    files["binding.dsse.json"] = bind(files, result["result_id"], RUN_ID, "2026-01-01T00:00:00+00:00", key)
    judge(files, run, keyring)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: replace(r, workload=replace(r.workload, batch_size=0)), "a batch size of 0 is none"),
        (
            lambda r: replace(r, workers=tuple(replace(w, facts=replace(w.facts, threads=0)) for w in r.workers)),
            "a number of threads of 0 is none",
        ),
        (
            lambda r: replace(r, workers=tuple(replace(w, runs_per_sample=0) for w in r.workers)),
            "a number of runs a sample of 0 is none",
        ),
        (lambda r: replace(r, workers=()), "no worker measured"),
    ],
)
def test_what_no_measurement_can_say_is_never_verified(
    change: Callable[[Any], Any], reason: str, key: SigningKey, keyring: Keyring
) -> None:
    result, samples = honest()
    files = seal(change(result), samples, key)
    _, run = logged(key)
    files[evidence.BINDING_FILE] = bind(files, result.result_id, RUN_ID, result.finished_at, key)
    found = judge(files, run, keyring).verdict
    assert found.state is VerdictState.CONTRADICTED
    assert any(reason in said for said in found.reasons), found.reasons


def test_evidence_copied_from_another_run_is_contradicted(key: SigningKey, keyring: Keyring) -> None:
    files, run = logged(key, run_id="e" * 32)
    found = judge(files, replace(run, run_id=RUN_ID), keyring).verdict
    assert found.state is C
    assert any("it was copied here" in reason for reason in found.reasons)


def test_a_key_that_is_not_trusted_leaves_it_unverified(key: SigningKey) -> None:
    found = judge(*logged(key), Keyring({})).verdict
    assert found.state is U
    assert {finding.rule for finding in found.findings} == {"key"}


def test_a_revoked_key_leaves_it_unverified(tmp_path: Path, key: SigningKey) -> None:
    run = logged(key)
    revoke(key.public.keyid, tmp_path / "keys", reason="lost")
    found = judge(*run, load_keyring(tmp_path / "keys")).verdict
    assert found.state is U
    assert any("revoked" in reason for reason in found.reasons)


def test_a_verdict_tag_may_say_less_than_the_evidence(key: SigningKey, keyring: Keyring) -> None:
    assert judge(*tag("verdict", "unverified")(logged(key)), keyring).verdict.state is VerdictState.VERIFIED


def test_a_bundle_gives_back_the_same_bytes(tmp_path: Path, key: SigningKey, keyring: Keyring) -> None:
    files, _ = logged(key)
    write_bundle(tmp_path / "one.json", files)
    again = read_bundle(tmp_path / "one.json")
    assert again == {name: files[name] for name in evidence.EVIDENCE_FILES[:3]}
    assert judge(again, None, keyring).verdict.state is VerdictState.VERIFIED


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"bundle_version":1,"files":{"../x":"y"}}', b"\xff"])
def test_other_bytes_are_no_bundle(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(CorruptEvidence):
        read_bundle(tmp_path / "x.json")


def test_a_bundle_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_bundle(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.replace(b'"schema_version":%d' % SCHEMA_VERSION, b'"schema_version":%d' % (SCHEMA_VERSION + 1)),
        lambda d: d.replace(b'"result_id"', b'"extra":1,"result_id"', 1),
        lambda d: d + b" ",
        lambda d: d.replace(b'"is_simulated":false', b'"is_simulated":null'),
    ],
)
def test_a_result_in_another_form_is_corrupt_and_never_verified(
    change: Callable[[bytes], bytes], key: SigningKey, keyring: Keyring
) -> None:
    result, samples = honest()
    files: dict[str, Any] = seal(result, samples, key)
    files["result.json"] = change(encode(result))
    assert judge(files, None, keyring).verdict.state in {C, U}
