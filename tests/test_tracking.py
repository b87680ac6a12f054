"""Results in an MLflow store and out again: names, limits, what is refused, and what an error says."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwbench_mlflow import evidence
from hwbench_mlflow.attest import Keyring, SigningKey
from hwbench_mlflow.backends.fake import FakeBackend
from hwbench_mlflow.errors import BenchmarkFailed, HwbenchError, StoreError, UsageError
from hwbench_mlflow.evidence import judge, seal
from hwbench_mlflow.host import describe_host
from hwbench_mlflow.keystore import load_keyring, signing_key
from hwbench_mlflow.model import FailureCategory, VerdictState
from hwbench_mlflow.note import dashboard_link
from hwbench_mlflow.tracking import MAX_TAG_CHARACTERS, Store, failure_of, store_errors
from hwbench_mlflow.tracking.store import RANDOM_NAME
from tests.honest import honest

if TYPE_CHECKING:
    from mlflow.entities import Run

RESULT, SAMPLES = honest()


@pytest.fixture
def store(store_uri: str) -> Store:
    return Store(store_uri)


@pytest.fixture
def key() -> SigningKey:
    return signing_key()


@pytest.fixture
def keyring(key: SigningKey) -> Keyring:
    return load_keyring()


def get(store: Store, run_id: str) -> Run:
    return store.client.get_run(run_id)


def test_a_result_goes_in_and_comes_out_verified(store: Store, key: SigningKey, keyring: Keyring) -> None:
    run_id = store.start_pushed(RESULT)
    assert store.log_result(run_id, seal(RESULT, SAMPLES, key), key, keyring) is VerdictState.VERIFIED
    index, files = store.read_run(run_id)
    judged = judge(files, index, keyring)
    assert judged.verdict.reasons == ()
    assert (judged.result, judged.samples) == (RESULT, SAMPLES)
    info = get(store, run_id).info
    assert (info.status, info.run_name) == ("FINISHED", "bert-tiny-cpu-fp32-b1")
    assert info.end_time - info.start_time == 30_000


def test_a_contradicted_result_ends_failed_with_its_evidence_and_reasons_and_without_a_number(
    store: Store, key: SigningKey, keyring: Keyring
) -> None:
    forged = dataclasses.replace(RESULT, is_simulated=True, simulation_reason="because")
    run_id = store.start("x")
    assert store.log_result(run_id, seal(forged, SAMPLES, key), key, keyring) is VerdictState.CONTRADICTED
    run = get(store, run_id)
    assert (run.info.status, run.data.metrics) == ("FAILED", {})
    assert "the device's evidence says otherwise" in run.data.tags["hwbench.reasons"]
    assert set(store.read_run(run_id)[1]) == set(evidence.EVIDENCE_FILES)


def test_a_note_leads_to_the_dashboard_where_there_is_one(
    store_uri: str, key: SigningKey, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = seal(RESULT, SAMPLES, key)

    def note() -> tuple[str, str]:
        store = Store(store_uri)
        run_id = store.start("x")
        store.log_result(run_id, files, key, keyring)
        return run_id, get(store, run_id).data.tags["mlflow.note.content"]

    assert "dashboard" not in note()[1]
    monkeypatch.setenv("HWBENCH_DASHBOARD_URL", "http://127.0.0.1:5050/")
    run_id, text = note()
    assert text.endswith(f"\n\n[This result on the dashboard](<http://127.0.0.1:5050/results/{run_id}>)")


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)", "ftp://host", "host:5050", "http://", "http://a>)[x](javascript:alert(1)", "http://a b",
        "http://user:secret@host", "http://host/?q=1", "http://host/#/x", "http://[::1", "http://host\n# x", "//host",
    ],
)  # fmt: skip
def test_a_dashboard_that_is_no_address_is_refused_before_anything_is_measured(
    store_uri: str, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    assert dashboard_link(address, "0" * 32) is None
    monkeypatch.setenv("HWBENCH_DASHBOARD_URL", address)
    with pytest.raises(UsageError, match="HWBENCH_DASHBOARD_URL is no http"):
        Store(store_uri)


@pytest.mark.parametrize("address", ["http://lab", "https://lab.example:8443/hwbench", "http://[::1]:5050"])
def test_an_address_of_a_page_is_linked_to(address: str) -> None:
    assert dashboard_link(address, "a/b>") == f"[This result on the dashboard](<{address}/results/a%2Fb%3E>)"


def test_nothing_readable_is_not_logged(store: Store, key: SigningKey, keyring: Keyring) -> None:
    with pytest.raises(StoreError, match="no readable result to log"):
        store.log_result(store.start("x"), {evidence.RESULT_FILE: b"{}"}, key, keyring)


def test_every_point_of_a_metric_is_read_and_not_the_latest_alone(
    store: Store, key: SigningKey, keyring: Keyring
) -> None:
    run_id = store.start("x")
    store.log_result(run_id, seal(RESULT, SAMPLES, key), key, keyring)
    store.client.log_metric(run_id, "latency_ms_p50", 1.0, step=-1)  # the UI goes on showing the other
    index, _ = store.read_run(run_id)
    assert set(index.metrics["latency_ms_p50"]) == {1.0, RESULT.aggregates.p50_ms}


def test_a_long_reason_is_cut_by_us_and_not_by_the_store(store: Store) -> None:
    run_id = store.start("x")
    store.fail(
        run_id, failure_of(BenchmarkFailed("é" * 20_000, FailureCategory.CRASH), FailureCategory.CRASH, None, None)
    )
    tags = get(store, run_id).data.tags
    assert tags["hwbench.failure_reason"] == "é" * MAX_TAG_CHARACTERS
    kept = Path(store.client.download_artifacts(run_id, "hwbench/failure.json")).read_text()
    assert len(json.loads(kept)["reason"]) == 20_000


@pytest.mark.parametrize(("killed", "status"), [(False, "FAILED"), (True, "KILLED")])
def test_a_failure_says_why_and_has_no_number(store: Store, killed: bool, status: str) -> None:
    run_id = store.start("x")
    error = BenchmarkFailed("it broke", FailureCategory.TIMEOUT, remedy="Mend it")
    store.fail(run_id, failure_of(error, FailureCategory.TIMEOUT, RESULT.request, describe_host()), killed=killed)
    run = get(store, run_id)
    assert (run.info.status, run.data.metrics) == (status, {})
    assert run.data.tags["hwbench.failure_category"] == "timeout"
    assert run.data.tags["hwbench.role"] == "failure"
    assert "Mend it" in run.data.tags["mlflow.note.content"]
    assert "verdict" not in run.data.tags


def test_the_random_name_of_an_adopted_run_is_replaced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = store.client.create_run("0").info
    assert RANDOM_NAME.fullmatch(made.run_name), "MLflow makes other names now"
    monkeypatch.setenv("MLFLOW_RUN_ID", made.run_id)
    adopting = Store(store.uri)
    assert adopting.start("bert-cpu-fp32-b1") == made.run_id
    assert get(store, made.run_id).info.run_name == "bert-cpu-fp32-b1"
    assert adopting.start("another") != made.run_id, "a run is adopted once"


def test_a_name_that_the_user_gave_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = store.client.create_run("0", run_name="Tuesday, with the fan off").info
    monkeypatch.setenv("MLFLOW_RUN_ID", made.run_id)
    Store(store.uri).start("bert-cpu-fp32-b1")
    assert get(store, made.run_id).info.run_name == "Tuesday, with the fan off"


def test_an_adopted_run_in_another_experiment_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", store.client.create_run("0").info.run_id)
    with pytest.raises(UsageError, match="another experiment"):
        Store(store.uri, "elsewhere")


def test_the_experiment_is_the_named_one_the_environment_s_or_the_default(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = Store(store.uri, "lab")
    assert get(store, named.start("x")).info.experiment_id == store.client.get_experiment_by_name("lab").experiment_id
    assert get(store, store.start("x")).info.experiment_id == "0"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "lab")
    assert get(store, Store(store.uri).start("x")).info.experiment_id != "0"


def test_a_result_is_found_by_its_id_where_it_is_whole(store: Store, key: SigningKey, keyring: Keyring) -> None:
    files = seal(RESULT, SAMPLES, key)
    assert store.find_result(RESULT.result_id) is None
    cut_off = store.start("cut off")
    store.client.log_param(cut_off, evidence.RESULT_ID_PARAM, RESULT.result_id)
    assert store.find_result(RESULT.result_id) is None, "a push that was cut off"
    failed = failure_of(BenchmarkFailed("x", FailureCategory.CRASH), FailureCategory.CRASH, None, None)
    store.fail(cut_off, failed)
    assert store.find_result(RESULT.result_id) is None, "one that failed while it was logged"
    whole = store.start("whole")
    store.log_result(whole, files, key, keyring)
    assert store.find_result(RESULT.result_id) == whole
    store.client.delete_run(whole)
    assert store.find_result(RESULT.result_id) == whole, "deleted ones count"


def test_an_id_that_is_none_does_not_reach_the_store_s_query(store: Store) -> None:
    with pytest.raises(UsageError, match="is not a result's id"):
        store.find_result("' OR 1=1")
    with pytest.raises(UsageError, match="is not a run id"):
        store.children("x' OR '1'='1")


def test_a_run_that_is_not_there_is_a_usage_error_that_names_the_store(store: Store) -> None:
    with pytest.raises(UsageError, match=f"there is no run '{'0' * 32}' in sqlite:///"):
        store.read_run("0" * 32)


def test_probes_are_a_run_of_their_own(store: Store) -> None:
    run = get(store, store.log_devices([FakeBackend().probe()], describe_host()))
    assert (run.info.status, run.info.run_name, run.data.metrics) == ("FINISHED", "devices", {})
    assert run.data.tags["hwbench.devices.cpu"] == "AVAILABLE"


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE invoices (amount INTEGER)")
    database.close()


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database " * 100)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def newer(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    database.close()


def replaced_by(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (replaced_by(garbage), "file is not a database"),
        (replaced_by(foreign), "is a SQLite database of something else than MLflow"),
        (folder, "is a folder"),
        (newer, "the tracking store refused: Detected out-of-date database schema"),
    ],
    ids=["garbage", "foreign", "folder", "newer"],
)
def test_a_store_that_is_none_is_one_line_and_is_left_as_it_was(
    spoil: Callable[[Path], None], says: str, tmp_path: Path, blank_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "spoilt.db"
    shutil.copyfile(blank_store, path)
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match=says) as caught:
        Store(f"sqlite:///{path}").start("x")
    assert caught.value.exit_code == 1
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_store_that_another_program_holds_is_one_line(store_uri: str, tmp_path: Path) -> None:
    holder = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match=r"database is locked\. Another program holds it"):
            Store(store_uri)
    finally:
        holder.close()


def test_a_server_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, blank_store: Path) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1"):
        Store("http://127.0.0.1:9").start("x")


def test_errors_of_mlflow_the_database_and_the_network_become_ours_and_others_stay() -> None:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    cases: list[tuple[Exception, str]] = [
        (MlflowException("many\nlines"), "the tracking store refused: many lines"),
        (ConnectionError("no route"), "the tracking store cannot be reached: no route"),
        (OperationalError("SELECT 1", None, sqlite3.OperationalError("disk is full")), "cannot be used: disk is full"),
    ]
    for error, says in cases:
        with pytest.raises(StoreError) as caught, store_errors():
            raise error
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
    for other in (ZeroDivisionError(), HwbenchError("ours")):
        with pytest.raises(type(other)), store_errors():
            raise other


def test_what_is_missing_is_said_as_asked_only_where_it_is_missing() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

    with pytest.raises(UsageError, match="no such thing"), store_errors(missing="no such thing"):
        raise MlflowException("x", error_code=RESOURCE_DOES_NOT_EXIST)
    with pytest.raises(StoreError, match="refused"), store_errors(missing="no such thing"):
        raise MlflowException("x")
