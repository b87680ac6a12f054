"""Everything that was ever tried: forged evidence, forged indexes, a warehouse edited by hand. None of it is real.

One store, one warehouse, one gate: each attempt is made on a run of its own, beside honest runs that must pass.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from hwbench_mlflow.attest import SigningKey
from hwbench_mlflow.cli.gate import GateReport, run_gate
from hwbench_mlflow.keystore import load_keyring, revoke, signing_key, trust
from hwbench_mlflow.model import Platform, VerdictState
from hwbench_mlflow.verdict import judge_result
from hwbench_mlflow.warehouse.memory import Memory, code_digest
from hwbench_mlflow.warehouse.published import open_published
from hwbench_mlflow.warehouse.readers.sqlite import SqliteReader
from hwbench_mlflow.warehouse.star import Star
from hwbench_mlflow.warehouse.sync import sync
from tests.gates.conftest import emulated
from tests.gates.corpus import HOSTILE, Made, claimed, honest_results, plant, renamed
from tests.honest import honest, honest_server
from tests.scenario_forgeries import FORGERIES as SCENARIO_FORGERIES
from tests.test_evidence import EDITS, Logged
from tests.test_verdict import FORGERIES
from tests.warehouse.results import Lab, distinct, make_lab

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

COPY = "INSERT INTO {table} SELECT * REPLACE ('{new}' AS {run}) FROM {table} WHERE {run} = '{victim}'"
GHOST = "0123456789abcdef0123456789abcdef"


def copied(new: str, *tables: str) -> list[str]:
    """SQL that makes a run of another's rows."""
    return [
        COPY.format(table=t, new=new, run="run_uuid" if t.startswith("mlflow.") else "run_id", victim="{run}")
        for t in tables
    ]


STAR = (
    "performance_results", "latency_samples", "evidence_files", "benchmark_runs", "hardware_availability_log",
)  # fmt: skip
MIRROR = (
    "mlflow.runs", "mlflow.params", "mlflow.tags", "mlflow.latest_metrics", "mlflow.metric_history",
    "mlflow.run_state",
)  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """What is done to the warehouse. ``rule`` must see it and say ``reason`` of the run, or of ``ghost``."""

    sql: list[str]
    rule: str
    reason: str
    start: str = "honest"
    ghost: str | None = None


def results(assignment: str) -> list[str]:
    return [f"UPDATE performance_results SET {assignment} WHERE run_id = '{{run}}'"]


R = "evidence.rederived"
BY_HAND: dict[str, Edit] = {
    "the median halved": Edit(results("latency_ms_p50 = latency_ms_p50 / 2"), R, "latency_ms_p50 in"),
    "a query's latency mended": Edit(
        ["UPDATE latency_samples SET sample_ns = end_ns - start_ns, latency_ms = (end_ns - start_ns) / 1e6 "
         "WHERE phase = 'timed' AND run_id = '{run}'"],
        "server.recompute", "count not from their arrival", start="server",
    ),
    "late queries not counted": Edit(results("late_count = late_count + 1"), "server.recompute", "it says 1",
                                     start="server"),
    "a rate claimed": Edit(
        results("offered_rate_per_s = 400, server_rate_per_s = 400"), R, "server_rate_per_s", start="server"
    ),
    "the throughput doubled": Edit(results("throughput_items_per_s = 2 * throughput_items_per_s"), R, "throughput"),
    "another device's name": Edit(results("device_name = 'NVIDIA H200'"), R, "device_name"),
    "another platform": Edit(results("platform = 'cuda'"), R, "platform"),
    "another precision": Edit(results("effective_precision = 'bf16', requested_precision = 'bf16'"), R, "precision"),
    "another batch": Edit(results("batch_size = 64"), R, "batch_size"),
    "dated today": Edit(results("created_at = created_at + INTERVAL 20 DAY"), R, "created_at"),
    "called ranked": Edit(results("ranked = NOT ranked"), R, "ranked"),
    "called stable": Edit(results("stable = NOT stable, noise_reasons = []"), R, "stable"),
    "an energy added": Edit(results("energy_j = 5, energy_method = 'counter', energy_scope = 'device'"), R, "energy_j"),
    "a percentile added": Edit(results("latency_ms_p99 = latency_ms_max"), R, "latency_ms_p99"),
    "another commit": Edit(results("git_commit = 'abc', git_dirty = false"), R, "git_commit"),
    "other packages": Edit(results("packages = MAP {{'torch': '99'}}"), R, "packages"),
    "another signer": Edit(results("key_name = 'the vendor'"), R, "key_name"),
    "another host": Edit(results("hostname = 'dgx', cpu_name = 'EPYC'"), R, "hostname"),
    "pretrained weights": Edit(results("weights = 'pretrained'"), R, "weights"),
    "NaN": Edit(results("latency_ms_stdev = 'nan'::DOUBLE"), "numbers.finite", "latency_ms_stdev"),
    "infinite speed": Edit(results("throughput_items_per_s = 'inf'::DOUBLE"), "numbers.finite", "throughput"),
    "the simulated flag dropped": Edit(
        [*results("is_simulated = false, simulation_reason = NULL, verdict = 'verified', reasons = []"),
         "DELETE FROM verdict_findings WHERE run_id = '{run}'",
         "UPDATE benchmark_runs SET verdict = 'verified', reasons = [] WHERE run_id = '{run}'"],
        R, "is_simulated", start="simulated",
    ),
    "called verified": Edit(
        [*results("verdict = 'verified', reasons = []"), "DELETE FROM verdict_findings WHERE run_id = '{run}'",
         "UPDATE benchmark_runs SET verdict = 'verified', reasons = [] WHERE run_id = '{run}'"],
        R, "verdict, reasons in", start="unverified",
    ),
    "a finding deleted": Edit(
        ["DELETE FROM verdict_findings WHERE run_id = '{run}'"], R, "verdict_findings", start="unverified"
    ),
    "a finding reworded": Edit(
        ["UPDATE verdict_findings SET reason = 'fine' WHERE run_id = '{run}'"], R, "verdict_findings",
        start="unverified",
    ),
    "a tag mended in the mirror": Edit(
        ["UPDATE mlflow.tags SET value = 'false' WHERE key = 'is_simulated' AND run_uuid = '{run}'"],
        "mirror.fingerprints", "not those of the last sync", start="mistagged",
    ),
    "a tag mended, and the verdict with it": Edit(
        ["UPDATE mlflow.tags SET value = 'false' WHERE key = 'is_simulated' AND run_uuid = '{run}'",
         *results("verdict = 'verified', reasons = []"), "DELETE FROM verdict_findings WHERE run_id = '{run}'",
         "UPDATE benchmark_runs SET verdict = 'verified', reasons = [] WHERE run_id = '{run}'"],
        "mirror.fingerprints", "not those of the last sync", start="mistagged",
    ),
    "a logged point deleted": Edit(
        ["DELETE FROM mlflow.metric_history WHERE key = 'sample_count' AND run_uuid = '{run}'"],
        "evidence.verdict", "sample_count is missing",
    ),
    "a sample edited": Edit(
        ["UPDATE latency_samples SET sample_ns = 1, latency_ms = 1e-6 WHERE sample = 3 AND run_id = '{run}'"], R,
        "latency_samples",
    ),
    "slow samples deleted": Edit(
        ["DELETE FROM latency_samples WHERE sample > 20 AND run_id = '{run}'"], "samples.counted", "there are 21"
    ),
    "all samples deleted": Edit(
        ["DELETE FROM latency_samples WHERE run_id = '{run}'"], "results.orphans", "no samples"
    ),
    "an evidence file edited": Edit(
        ["UPDATE evidence_files SET content = replace(content::VARCHAR, 'Test CPU', 'Best CPU')::BLOB "
         "WHERE name = 'result.json' AND run_id = '{run}'"], "evidence.kept", "another digest",
    ),
    "an evidence file and its digest edited": Edit(
        ["UPDATE evidence_files SET content = replace(content::VARCHAR, 'Test CPU', 'Best CPU')::BLOB "
         "WHERE name = 'result.json' AND run_id = '{run}'",
         "UPDATE evidence_files SET sha256 = sha256(content) WHERE run_id = '{run}'"],
        "evidence.verdict", "is not the one this run was logged with",
    ),
    "the signature deleted": Edit(
        ["DELETE FROM evidence_files WHERE name = 'attestation.dsse.json' AND run_id = '{run}'"],
        "evidence.verdict", "not signed",
    ),
    "all evidence deleted": Edit(
        ["DELETE FROM evidence_files WHERE run_id = '{run}'"], R, "no evidence that is kept makes this row"
    ),
    "its probe deleted": Edit(
        ["DELETE FROM hardware_availability_log WHERE run_id = '{run}'"], "availability.rests_on_probe", "no probe"
    ),
    "its probe of another device": Edit(
        ["UPDATE hardware_availability_log SET device_name = 'NVIDIA H200' WHERE run_id = '{run}'"],
        "availability.rests_on_probe", "no probe",
    ),
    "its probe made after it": Edit(
        ["UPDATE hardware_availability_log SET probed_at = probed_at + INTERVAL 1 DAY WHERE run_id = '{run}'"],
        "availability.rests_on_probe", "no probe",
    ),
    "a probe verified by hand": Edit(
        ["UPDATE hardware_availability_log SET check_reason = 'fine' WHERE run_id = '{run}'"], R,
        "hardware_availability_log",
    ),
    "a model of another name": Edit(
        ["INSERT INTO models SELECT * REPLACE ('ab' || model_id[3:] AS model_id, 'gpt-5' AS model_name) FROM models "
         "WHERE model_id = (SELECT model_id FROM performance_results WHERE run_id = '{run}')",
         "UPDATE performance_results SET model_id = 'ab' || model_id[3:] WHERE run_id = '{run}'"], R, "model_id",
    ),
    "a model that is not there": Edit(results("model_id = repeat('0', 32)"), "results.orphans", "models"),
    "another device's row": Edit(
        ["INSERT INTO hardware_platforms SELECT * REPLACE ('ab' || hardware_id[3:] AS hardware_id, 'H200' AS "
         "device_name) FROM hardware_platforms WHERE hardware_id = (SELECT hardware_id FROM performance_results "
         "WHERE run_id = '{run}')",
         "UPDATE performance_results SET hardware_id = 'ab' || hardware_id[3:] WHERE run_id = '{run}'"],
        "hardware.same", "is listed under H200",
    ),
    "a row inserted by hand": Edit(
        copied(GHOST + "1", "performance_results"), R, "no run of hwbench's", ghost=GHOST + "1"
    ),
    "a row inserted with all that belongs to it": Edit(
        copied(GHOST + "2", *STAR), R, "no run of hwbench's", ghost=GHOST + "2"
    ),
    "a whole run inserted, mirror and all": Edit(
        copied(GHOST + "3", *STAR, *MIRROR), "evidence.verdict", "it was copied here", ghost=GHOST + "3"
    ),
    "the state that it was judged in": Edit(
        ["UPDATE benchmark_runs SET fingerprint = 'x' WHERE run_id = '{run}'"], R, "benchmark_runs"
    ),
    "a role that hides it": Edit(
        ["UPDATE benchmark_runs SET role = 'parent', evidence = 'none', verdict = NULL, reasons = [] "
         "WHERE run_id = '{run}'"], R, "benchmark_runs",
    ),
    "a run that was deleted": Edit(
        ["UPDATE mlflow.runs SET lifecycle_stage = 'deleted' WHERE run_uuid = '{run}'"], R, "no evidence that is kept"
    ),
}  # fmt: skip


@dataclass
class Field:
    """After the gate: which run is which, and what was published."""

    runs: dict[str, str]
    report: GateReport
    real: pd.DataFrame
    simulated: pd.DataFrame
    quarantine: pd.DataFrame
    db: Path
    published: Path
    lab: Lab

    def reasons(self, run_id: str, rule: str) -> list[str]:
        """What that rule said of a run."""
        mine = self.quarantine[(self.quarantine.run_id == run_id) & (self.quarantine.rule == rule)]
        return list(mine.reason)


def mistagged(files: dict[str, bytes], run: object) -> Logged:
    edit = next(change for name, change, _, _ in EDITS if name == "is_simulated")
    return edit((files, run))  # type: ignore[arg-type]


def starts(lab: Lab, seed: int) -> dict[str, Callable[[], str]]:
    """What an edit by hand begins with."""

    def as_claimed(made: Made) -> str:
        return plant(lab, lambda run_id: claimed(*made, run_id, lab.key))

    return {
        "honest": lambda: as_claimed(distinct(seed)),
        "server": lambda: as_claimed(renamed(*honest_server(), 5000 + seed)),
        "simulated": lambda: lab.add(seed, emulated),
        "unverified": lambda: as_claimed(_without_peak(distinct(seed))),
        "mistagged": lambda: plant(lab, lambda run_id: mistagged(*claimed(*distinct(seed), run_id, lab.key))),
    }


def _without_peak(made: Made) -> Made:
    import dataclasses

    return dataclasses.replace(made[0], calibration=None), made[1]


def _keys(lab: Lab, folder: Path) -> dict[str, SigningKey]:
    keys = {name: signing_key(folder / name) for name in ("colleague", "stranger", "leaver")}
    for name in ("colleague", "leaver"):
        trust(keys[name].public.renamed(name), lab.home)
    return keys


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Field:
    folder = tmp_path_factory.mktemp("red-team")
    store = Path(shutil.copyfile(empty_store, folder / "mlflow.db"))
    lab = make_lab(store, folder / "home", folder / "artifacts")
    keys = _keys(lab, folder)
    runs: dict[str, str] = {}
    for name, made in honest_results().items():
        runs[f"honest {name}"] = plant(lab, lambda run_id, made=made: claimed(*made, run_id, lab.key))
    for seed, (name, signer) in enumerate(keys.items(), start=300):
        made = distinct(seed)
        runs[f"signed {name}"] = plant(lab, lambda run_id, made=made, k=signer: claimed(*made, run_id, k))
    for number, (name, platform, _, _, forge) in enumerate(FORGERIES):
        made = forge(*renamed(*honest(platform), 1000 + number))
        runs[f"forged {name}"] = plant(lab, lambda run_id, made=made: claimed(*made, run_id, lab.key))
    for number, (name, make, _, _, _, forge) in enumerate(SCENARIO_FORGERIES):
        made = forge(*renamed(*make(), 3000 + number))
        runs[f"forged {name}"] = plant(lab, lambda run_id, made=made: claimed(*made, run_id, lab.key))
    for number, (name, edit, _, _) in enumerate(EDITS):
        made = renamed(*honest(), 2000 + number)
        runs[f"index {name}"] = plant(lab, lambda run_id, made=made, edit=edit: edit(claimed(*made, run_id, lab.key)))
    copied_from = runs["honest plain"]
    runs["copied evidence"] = plant(lab, lambda _: claimed(*distinct(100), copied_from, lab.key))
    twice = distinct(400)
    for name in ("replayed once", "replayed twice"):
        runs[name] = plant(lab, lambda run_id: claimed(*twice, run_id, lab.key))
    for seed, (name, by_hand) in enumerate(BY_HAND.items(), start=500):
        runs[name] = starts(lab, seed)[by_hand.start]()
    db = folder / "hwbench.duckdb"
    sync(SqliteReader(store), db, judge=Star(load_keyring(lab.home)))
    with duckdb.connect(str(db)) as connection:
        for name, by_hand in BY_HAND.items():
            for sql in by_hand.sql:
                connection.execute(sql.replace("{run}", runs[name]).replace("{{", "{").replace("}}", "}"))
    revoke(keys["leaver"].keyid, lab.home, reason="left")  # after the sync: the warehouse still says verified
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWBENCH_HOME", str(lab.home))
        report, _ = run_gate(db, folder / "published.duckdb")
    with open_published(folder / "published.duckdb") as found:
        frames = [found.frame(t) for t in ("real_results", "simulated_results", "quarantine")]
    return Field(runs, report, *frames, db, folder / "published.duckdb", lab)


FLIPPED = results("ranked = NOT ranked")
AGAINST_THE_DIGEST: dict[str, Edit] = {
    "edited since, the digest left": Edit(FLIPPED, R, "ranked in"),
    "edited since, another run's digest": Edit(
        [*FLIPPED, "UPDATE judged_runs SET mac = (SELECT mac FROM judged_runs WHERE run_id <> '{run}' LIMIT 1) "
         "WHERE run_id = '{run}'"], R, "ranked in",
    ),
    "edited since, a digest without a key": Edit(
        [*FLIPPED, "UPDATE judged_runs SET mac = (SELECT sha256(to_json(p)::VARCHAR) FROM performance_results p "
         "WHERE p.run_id = judged_runs.run_id) WHERE run_id = '{run}'"], R, "ranked in",
    ),
    "edited since, a digest under a key of one's own": Edit([*FLIPPED, "FOREIGN"], R, "ranked in"),
    "edited since, the digest deleted": Edit(
        [*FLIPPED, "DELETE FROM judged_runs WHERE run_id = '{run}'"], R, "ranked in"
    ),
    "a sample edited since": Edit(
        ["UPDATE latency_samples SET sample_ns = sample_ns - 1 WHERE sample = 3 AND run_id = '{run}'"], R, "latency_s",
    ),
    "a device described otherwise since": Edit(
        ["INSERT INTO hardware_platforms SELECT * REPLACE ('cd' || hardware_id[3:] AS hardware_id, 'x' AS vendor) FROM "
         "hardware_platforms WHERE hardware_id = (SELECT hardware_id FROM performance_results WHERE run_id = '{run}')",
         *results("hardware_id = 'cd' || hardware_id[3:]")], R, "hardware_id in",
    ),
    "evidence replaced since, with its digests": Edit(
        ["UPDATE evidence_files SET content = replace(content::VARCHAR, 'Test CPU', 'Best CPU')::BLOB "
         "WHERE name = 'result.json' AND run_id = '{run}'",
         "UPDATE evidence_files SET sha256 = sha256(content) WHERE run_id = '{run}'"],
        "evidence.verdict", "is not the one this run was logged with",
    ),
    "a logged point deleted since": Edit(
        ["DELETE FROM mlflow.metric_history WHERE key = 'sample_count' AND run_uuid = '{run}'"],
        "evidence.verdict", "sample_count is missing",
    ),
    "called verified since": Edit(
        [*results("verdict = 'verified', reasons = []"), "DELETE FROM verdict_findings WHERE run_id = '{run}'",
         "UPDATE benchmark_runs SET verdict = 'verified', reasons = [] WHERE run_id = '{run}'"],
        R, "verdict, reasons in", start="unverified",
    ),
    "a run inserted with its victim's digest": Edit(
        copied(GHOST + "4", *STAR, *MIRROR, "judged_runs"), "evidence.verdict", "it was copied here",
        ghost=GHOST + "4",
    ),
    "rows of a run inserted with a digest": Edit(
        copied(GHOST + "5", *STAR, "judged_runs"), R, "no run of hwbench's", ghost=GHOST + "5"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def gated_twice(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Field:
    """A warehouse that a gate has judged and remembered, then edited by who knows all of it but the key."""
    folder = tmp_path_factory.mktemp("red-team-memory")
    store = Path(shutil.copyfile(empty_store, folder / "mlflow.db"))
    lab = make_lab(store, folder / "home", folder / "artifacts")
    runs = {f"honest {n}": starts(lab, 900 + n)["honest"]() for n in range(3)}
    for seed, (name, by_hand) in enumerate(AGAINST_THE_DIGEST.items(), start=950):
        runs[name] = starts(lab, seed)[by_hand.start]()
    db, published = folder / "hwbench.duckdb", folder / "published.duckdb"
    sync(SqliteReader(store), db, judge=Star(load_keyring(lab.home)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWBENCH_HOME", str(lab.home))
        first, _ = run_gate(db, published)
        assert (first.judged, first.refusals) == (len(runs), [])
        with duckdb.connect(str(db)) as connection:
            for name, by_hand in AGAINST_THE_DIGEST.items():
                for sql in by_hand.sql:
                    if sql == "FOREIGN":
                        [(_, mac)] = Memory(b"k" * 32, load_keyring(lab.home), str(code_digest())).macs(
                            connection, [runs[name]]
                        )
                        sql = f"UPDATE judged_runs SET mac = '{mac}' WHERE run_id = '{{run}}'"
                    connection.execute(sql.replace("{run}", runs[name]))
        report, _ = run_gate(db, published)
    with open_published(published) as found:
        frames = [found.frame(t) for t in ("real_results", "simulated_results", "quarantine")]
    return Field(runs, report, *frames, db, published, lab)


@pytest.mark.parametrize("name", AGAINST_THE_DIGEST)
def test_a_keyed_digest_lets_nothing_through(name: str, gated_twice: Field) -> None:
    edit = AGAINST_THE_DIGEST[name]
    run_id = edit.ghost or gated_twice.runs[name]
    assert run_id not in set(gated_twice.real.run_id)
    said = gated_twice.reasons(run_id, edit.rule)
    assert any(edit.reason in reason for reason in said), said


def test_what_nobody_touched_is_real_and_was_not_judged_again(gated_twice: Field) -> None:
    untouched = {gated_twice.runs[f"honest {n}"] for n in range(3)}
    assert gated_twice.report.refusals == []
    assert set(gated_twice.real.run_id) == untouched
    copied_only = sum(edit.ghost is not None for edit in AGAINST_THE_DIGEST.values())
    assert gated_twice.report.unchanged == len(untouched) + copied_only


HONEST_NAMES = [*(f"honest {name}" for name in honest_results()), "signed colleague"]


@pytest.mark.parametrize("name", HONEST_NAMES)
def test_an_honest_run_is_real(name: str, field: Field) -> None:
    run_id = field.runs[name]
    mine = field.quarantine[field.quarantine.run_id == run_id]
    assert list(mine.reason) == []
    assert run_id in set(field.real.run_id)


def test_nothing_else_is_real_and_every_run_is_somewhere(field: Field) -> None:
    assert field.report.refusals == []
    assert set(field.real.run_id) == {field.runs[name] for name in HONEST_NAMES}
    everywhere = [set(frame.run_id) for frame in (field.real, field.simulated, field.quarantine)]
    assert sum(map(len, everywhere)) == len(set().union(*everywhere))
    assert set(field.runs.values()) <= set().union(*everywhere)


@pytest.mark.parametrize(("name", "state", "rule"), [(f[0], f[2], f[3]) for f in FORGERIES], ids=lambda v: str(v))
def test_forged_evidence_is_kept_out_for_its_reason(name: str, state: VerdictState, rule: str, field: Field) -> None:
    run_id = field.runs[f"forged {name}"]
    if state is VerdictState.SIMULATED:
        assert run_id in set(field.simulated.run_id)
        return
    [said] = field.reasons(run_id, "evidence.verdict")
    assert said.startswith(f"{state}: ")
    # What the tables' own CHECKs refuse is refused before any rule of the verdict is asked.
    refused_by_tables = {"simulated-without-reason", "query-size-of-a-latency"}
    assert f"{'table' if name in refused_by_tables else rule}: " in said


@pytest.mark.parametrize("case", SCENARIO_FORGERIES, ids=[f[0] for f in SCENARIO_FORGERIES])
def test_a_forged_server_or_multistream_is_kept_out(case: Any, field: Field) -> None:
    name, _, state, rule, reason, _ = case
    [said] = field.reasons(field.runs[f"forged {name}"], "evidence.verdict")
    assert said.startswith(f"{state}: ")
    # What a table's own constraints refuse is refused before any rule of the verdict is asked.
    assert (f"{rule}: " in said and reason in said) or "table: " in said


@pytest.mark.parametrize(("name", "state", "reason"), [(e[0], e[2], e[3]) for e in EDITS], ids=lambda v: str(v)[:20])
def test_an_edited_run_is_kept_out_for_its_reason(name: str, state: VerdictState, reason: str, field: Field) -> None:
    [said] = field.reasons(field.runs[f"index {name}"], "evidence.verdict")
    assert said.startswith(f"{state}: ")
    assert reason in said


@pytest.mark.parametrize("name", BY_HAND)
def test_an_edit_of_the_warehouse_is_kept_out_for_its_reason(name: str, field: Field) -> None:
    edit = BY_HAND[name]
    said = field.reasons(edit.ghost or field.runs[name], edit.rule)
    assert any(edit.reason in reason for reason in said), field.quarantine[
        field.quarantine.run_id == (edit.ghost or field.runs[name])
    ][["rule", "reason"]].to_string()


def test_copied_and_replayed_evidence_is_kept_out(field: Field) -> None:
    [said] = field.reasons(field.runs["copied evidence"], "evidence.verdict")
    assert "it was copied here" in said
    for one, other in (("once", "twice"), ("twice", "once")):
        said = field.reasons(field.runs[f"replayed {one}"], "evidence.replayed")
        assert said == [f"its evidence is also that of run {field.runs[f'replayed {other}']}"]


@pytest.mark.parametrize(("who", "reason"), [("stranger", "not among the keys trusted"), ("leaver", "was revoked")])
def test_a_foreign_and_a_revoked_key_prove_nothing(who: str, reason: str, field: Field) -> None:
    [said] = field.reasons(field.runs[f"signed {who}"], "evidence.verdict")
    assert said.startswith("unverified: key: ")
    assert reason in said


def test_the_corpus_is_large_and_its_honest_half_is_honest() -> None:
    assert len(FORGERIES) + len(EDITS) + len(BY_HAND) + len(AGAINST_THE_DIGEST) >= 130
    for name, made in honest_results().items():
        assert judge_result(*made).reasons == (), name
    assert {p for p in Platform if p in {m[0].request.platform for m in honest_results().values()}} == {
        Platform.CPU, Platform.CUDA, Platform.OPENVINO, Platform.MPS,
    }  # fmt: skip


def test_hostile_names_pass_as_text(field: Field) -> None:
    assert set(HOSTILE.values()) <= set(field.real.model_name)
    with duckdb.connect(str(field.db), read_only=True) as connection:
        assert connection.execute("SELECT count(*) > 100 FROM performance_results").fetchall() == [(True,)]


def test_what_was_found_is_written_down(field: Field) -> None:
    with duckdb.connect(str(field.db), read_only=True) as connection:
        rules = connection.execute(
            "SELECT DISTINCT rule FROM gate_results WHERE gate_id = ? AND run_id IS NULL", [field.report.gate_id]
        ).fetchall()
        refused = connection.execute(
            "SELECT count(*) FROM gate_results WHERE run_id IS NOT NULL AND NOT passed AND reason IS NOT NULL"
        ).fetchall()[0][0]
    assert {r[0] for r in rules} == {o.rule for o in field.report.outcomes}
    assert refused == sum(len(o.refused) for o in field.report.outcomes) > 100
