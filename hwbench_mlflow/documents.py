"""Signed documents that are no results: estimates and calibrations. From a run's files to a verdict, and back.

Owns their files' names, how they are signed and bound to a run, and their judges. What :mod:`.evidence` is to results;
nothing here can make a :class:`~hwbench_mlflow.evidence.Judgement`, and an estimate's verdict is of a type without
*verified*. Knows no tracking store. Imports no mlflow, no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwbench_mlflow.attest import Keyring, SignatureCheck, SigningKey, check, make_statement, sign
from hwbench_mlflow.codec import decode, encode, sha256
from hwbench_mlflow.errors import CorruptEvidence
from hwbench_mlflow.estimate import (
    ESTIMATE_DIGEST_PARAM,
    ESTIMATE_ID_PARAM,
    ESTIMATE_ROLE,
    Estimate,
    EstimateFinding,
    EstimateState,
    EstimateVerdict,
    conclude,
    index_of_estimate,
    judge_estimate,
)
from hwbench_mlflow.evidence import (
    ATTESTATION_FILE,
    BINDING_FILE,
    DIGEST_PARAM,
    FOLDER,
    RESULT_ID_PARAM,
    RunIndex,
)
from hwbench_mlflow.index import VERDICT_TAG, ResultIndex
from hwbench_mlflow.metrics import ALL_METRICS
from hwbench_mlflow.model import SCHEMA_VERSION, Finding, Verdict, VerdictState
from hwbench_mlflow.roofline import (
    ROOFLINE_DIGEST_PARAM,
    ROOFLINE_ID_PARAM,
    ROOFLINE_ROLE,
    Roofline,
    index_of_roofline,
    judge_roofline,
)
from hwbench_mlflow.verdict import combine

ESTIMATE_FILE = "estimate.json"
ROOFLINE_FILE = "roofline.json"
ESTIMATE_PREDICATE = "urn:hwbench:roofline-estimate:v1"
ROOFLINE_PREDICATE = "urn:hwbench:roofline-calibration:v1"
DOCUMENT_BINDING_PREDICATE = "urn:hwbench:document-binding:v1"

FILES = {
    ESTIMATE_ROLE: (ESTIMATE_FILE, ATTESTATION_FILE, BINDING_FILE),
    ROOFLINE_ROLE: (ROOFLINE_FILE, ATTESTATION_FILE, BINDING_FILE),
}
"""What a run of each role holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateJudgement:
    """An estimate's verdict and what it rests on; ``estimate`` is None where it cannot be read."""

    verdict: EstimateVerdict
    estimate: Estimate | None = None
    signature: SignatureCheck | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineJudgement:
    """A calibration's verdict and what it rests on; ``roofline`` is None where it cannot be read."""

    verdict: Verdict
    roofline: Roofline | None = None
    signature: SignatureCheck | None = None


@dataclass(frozen=True, slots=True)
class _Objection:
    """Something against a document, whatever it is: it can only make a verdict worse."""

    rule: str
    contradicts: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """How one kind of document is filed."""

    file: str
    predicate: str
    digest_param: str


_ESTIMATE = _Form(file=ESTIMATE_FILE, predicate=ESTIMATE_PREDICATE, digest_param=ESTIMATE_DIGEST_PARAM)
_ROOFLINE = _Form(file=ROOFLINE_FILE, predicate=ROOFLINE_PREDICATE, digest_param=ROOFLINE_DIGEST_PARAM)


# --- judging ------------------------------------------------------------------------------------


def judge_estimate_run(artifacts: Mapping[str, bytes], run: RunIndex | None, keyring: Keyring) -> EstimateJudgement:
    """The verdict of an estimate's files: simulated at best, by its type. Never raises for bad evidence."""
    estimate, objections = _read(_ESTIMATE, artifacts, Estimate)
    signature, more = _signed(_ESTIMATE, artifacts, keyring, None if estimate is None else estimate.estimate_id)
    objections += more
    findings: list[EstimateFinding] = []
    if estimate is not None:
        findings += judge_estimate(estimate).findings
    if run is not None:
        digest = sha256(artifacts[ESTIMATE_FILE]) if ESTIMATE_FILE in artifacts else None
        objections += _bound(_ESTIMATE, artifacts, run, keyring)
        if estimate is not None and digest is not None:
            objections += _indexed(run, index_of_estimate(estimate, digest), {str(EstimateState.SIMULATED)})
    findings += [
        EstimateFinding(
            rule=o.rule,
            effect=EstimateState.CONTRADICTED if o.contradicts else EstimateState.UNVERIFIED,
            reason=o.reason,
        )
        for o in objections
    ]
    return EstimateJudgement(verdict=conclude(findings), estimate=estimate, signature=signature)


def judge_roofline_run(artifacts: Mapping[str, bytes], run: RunIndex | None, keyring: Keyring) -> RooflineJudgement:
    """The verdict of a calibration's files. Never raises for bad evidence."""
    found, objections = _read(_ROOFLINE, artifacts, Roofline)
    signature, more = _signed(_ROOFLINE, artifacts, keyring, None if found is None else found.roofline_id)
    objections += more
    measured = judge_roofline(found) if found is not None else None
    if run is not None:
        objections += _bound(_ROOFLINE, artifacts, run, keyring)
        # Numbers that nothing can be computed with have no index; that they are none was said above.
        sound = measured is not None and all(f.rule != "shape" for f in measured.findings)
        if found is not None and measured is not None and sound:
            expected = index_of_roofline(found, sha256(artifacts[ROOFLINE_FILE]), measured.state)
            objections += _indexed(run, expected, {str(measured.state), str(VerdictState.UNVERIFIED)})
    findings = [*(measured.findings if measured is not None else ())]
    findings += [
        Finding(
            rule=o.rule,
            effect=VerdictState.CONTRADICTED if o.contradicts else VerdictState.UNVERIFIED,
            reason=o.reason,
        )
        for o in objections
    ]
    return RooflineJudgement(verdict=combine(findings), roofline=found, signature=signature)


def role_of(run: RunIndex) -> str | None:
    """``estimate`` or ``roofline`` for a run that was logged as one: by its params, which nobody can take away.

    None for a result: a run that has a result's params too is judged as one, which its files are not.
    """
    if DIGEST_PARAM in run.params or RESULT_ID_PARAM in run.params:
        return None
    for role, digest, own_id in (
        (ESTIMATE_ROLE, ESTIMATE_DIGEST_PARAM, ESTIMATE_ID_PARAM),
        (ROOFLINE_ROLE, ROOFLINE_DIGEST_PARAM, ROOFLINE_ID_PARAM),
    ):
        if digest in run.params or own_id in run.params:
            return role
    return None


def _read(form: _Form, artifacts: Mapping[str, bytes], kind: type[Any]) -> tuple[Any, list[_Objection]]:
    data = artifacts.get(form.file)
    if data is None:
        return None, [_Objection("files", False, f"{FOLDER}/{form.file} is missing")]
    try:
        found = decode(data, kind)
    except CorruptEvidence as error:
        return None, [_Objection("files", False, f"{form.file}: {error}")]
    if found.schema_version != SCHEMA_VERSION:
        reason = f"{form.file}: schema version {found.schema_version}; this hwbench reads version {SCHEMA_VERSION}"
        return None, [_Objection("files", False, reason)]
    return found, []


def _signed(
    form: _Form, artifacts: Mapping[str, bytes], keyring: Keyring, document_id: str | None
) -> tuple[SignatureCheck | None, list[_Objection]]:
    envelope = artifacts.get(ATTESTATION_FILE)
    if envelope is None:
        return None, [_Objection("signature", False, "it is not signed")]
    found = check(envelope, keyring)
    against = list(_trusted(found, form.file))
    if found.statement is None:
        return found, against
    if found.statement.predicate_type != form.predicate:
        against.append(_Objection("signature", True, f"what was signed is no document of the kind of {form.file}"))
    data = artifacts.get(form.file)
    if data is not None and dict(found.statement.subjects) != {form.file: sha256(data)}:
        against.append(_Objection("signature", True, "what was signed is not this file"))
    elif document_id is not None and found.statement.predicate.get("document_id") != document_id:
        against.append(_Objection("signature", True, "what was signed is another document"))
    return found, against


def _trusted(found: SignatureCheck, what: str) -> Iterator[_Objection]:
    if found.state == "invalid":
        yield _Objection("signature", True, f"{what}: {found.reason}")
    elif found.state != "trusted":
        yield _Objection("key", False, f"{what}: {found.reason}")


def _bound(form: _Form, artifacts: Mapping[str, bytes], run: RunIndex, keyring: Keyring) -> list[_Objection]:
    against = []
    if run.status != "FINISHED":
        against.append(_Objection("run", False, f"the run is {run.status}, not FINISHED"))
    data = artifacts.get(form.file)
    if data is None:
        return against
    param = run.params.get(form.digest_param)
    if param is None:
        against.append(_Objection("binding", False, f"the run has no param {form.digest_param}"))
    elif param != sha256(data):
        against.append(_Objection("binding", True, f"{form.file} is not the one this run was logged with"))
    envelope = artifacts.get(BINDING_FILE)
    if envelope is None:
        return [*against, _Objection("binding", False, "nothing signed says that it belongs to this run")]
    found = check(envelope, keyring)
    against += _trusted(found, "the binding to this run")
    if found.statement is None:
        return against
    if found.statement.predicate_type != DOCUMENT_BINDING_PREDICATE:
        against.append(_Objection("binding", True, "what was signed is not a binding of a document to a run"))
    elif found.statement.predicate.get("run_id") != run.run_id:
        against.append(_Objection("binding", True, "the document belongs to another run: it was copied here"))
    elif dict(found.statement.subjects) != {form.file: sha256(data)}:
        against.append(_Objection("binding", True, "the binding is of another document"))
    return against


def _indexed(run: RunIndex, expected: ResultIndex, verdicts: set[str]) -> Iterator[_Objection]:
    """The run's params, metrics and tags against those that the document makes, and nothing of hwbench's beside."""
    tags = {name: value for name, value in expected.tags.items() if name != VERDICT_TAG}
    for what, said, found in (("param", expected.params, run.params), ("tag", tags, run.tags)):
        for name, value in said.items():
            if name not in found:
                yield _Objection("index", False, f"{what} {name} is missing")
            elif found[name] != value:
                yield _Objection("index", True, f"{what} {name} says {found[name][:80]!r}, the document {value[:80]!r}")
    for name in sorted(run.params.keys() - expected.params.keys()):
        if name.startswith("hwbench."):
            yield _Objection("index", True, f"param {name} is on a run whose document says nothing of it")
    if "simulation_reason" in run.tags and "simulation_reason" not in expected.tags:
        yield _Objection("index", True, "tag simulation_reason is set on what is not simulated")
    verdict = run.tags.get(VERDICT_TAG)
    if verdict is None:
        yield _Objection("index", False, f"tag {VERDICT_TAG} is missing")
    elif verdict not in verdicts:
        yield _Objection(
            "index", True, f"tag {VERDICT_TAG} says {verdict[:80]!r}, the document {sorted(verdicts)[0]!r}"
        )
    yield from _metrics(expected.metrics, run.metrics)


def _metrics(expected: Mapping[str, float], found: Mapping[str, Sequence[float]]) -> Iterator[_Objection]:
    for name, value in expected.items():
        points = found.get(name, ())
        if not points:
            yield _Objection("index", False, f"metric {name} is missing")
        elif any(point != value for point in points) or len(points) > 1:
            yield _Objection("index", True, f"metric {name} was logged as something else, or again")
    for name in sorted(ALL_METRICS.keys() & found.keys() - expected.keys()):
        yield _Objection("index", True, f"metric {name} was logged; the document holds no such value")


# --- sealing ------------------------------------------------------------------------------------


def seal_estimate(estimate: Estimate, key: SigningKey) -> dict[str, bytes]:
    """The files of an estimate, signed: file name -> bytes."""
    return _seal(_ESTIMATE, encode(estimate), estimate.estimate_id, estimate.created_at, key)


def seal_roofline(found: Roofline, key: SigningKey) -> dict[str, bytes]:
    """The files of a calibration, signed: file name -> bytes."""
    return _seal(_ROOFLINE, encode(found), found.roofline_id, found.finished_at, key)


def _seal(form: _Form, data: bytes, document_id: str, created_at: str, key: SigningKey) -> dict[str, bytes]:
    statement = make_statement(
        {form.file: sha256(data)}, form.predicate, {"document_id": document_id, "created_at": created_at}
    )
    return {form.file: data, ATTESTATION_FILE: sign(statement, key)}


def bind_document(files: Mapping[str, bytes], role: str, run_id: str, bound_at: str, key: SigningKey) -> bytes:
    """A signed statement that this document was placed in that MLflow run: ``binding.dsse.json``."""
    name = FILES[role][0]
    statement = make_statement(
        {name: sha256(files[name])}, DOCUMENT_BINDING_PREDICATE, {"run_id": run_id, "bound_at": bound_at}
    )
    return sign(statement, key)
