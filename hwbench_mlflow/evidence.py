"""From a run's files and its index to a verdict, by whoever reads them.

Owns the names of the files, how they are bound to each other and to a run, and :func:`judge`, which
is the only way anything in hwbench learns whether a number is real. Knows no tracking store: it is
given bytes and what the run says of itself. Imports no mlflow, no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hwbench_mlflow.attest import (
    BINDING_PREDICATE,
    RESULT_PREDICATE,
    Checking,
    Keyring,
    SignatureCheck,
    SigningKey,
    check,
    make_statement,
    sign,
)
from hwbench_mlflow.codec import decode_result, decode_samples, encode, sha256
from hwbench_mlflow.errors import CorruptEvidence
from hwbench_mlflow.index import OPTIONAL_TAGS, VERDICT_TAG, ResultIndex, index_of
from hwbench_mlflow.metrics import ALL_METRICS
from hwbench_mlflow.model import BenchmarkResult, Finding, SampleSet, Verdict, VerdictState
from hwbench_mlflow.verdict import CONTRADICTED, UNVERIFIED, combine, impossible, judge_result

FOLDER = "hwbench"
RESULT_FILE = "result.json"
SAMPLES_FILE = "samples.json"
ATTESTATION_FILE = "attestation.dsse.json"
BINDING_FILE = "binding.dsse.json"
FAILURE_FILE = "failure.json"
DEVICES_FILE = "devices.json"
EVIDENCE_FILES = (RESULT_FILE, SAMPLES_FILE, ATTESTATION_FILE, BINDING_FILE)
SIGNED_FILES = (RESULT_FILE, SAMPLES_FILE)

DIGEST_PARAM = "hwbench.result_sha256"
ROLE_TAG = "hwbench.role"
ATTEMPT_TAG = "hwbench.attempt"
"""Drawn before a run is made: whoever sends again finds by it the run that an answer was lost of."""
PROCESS_TAG = "hwbench.process"
"""Which process of which machine writes the run: see :func:`.host.process_name`."""
GIVEN_UP_TAG = "hwbench.given_up."
"""On the parent of a batch, with an attempt behind it: its node was lost, and what it measured is measured again."""
CELLS_TAG = "hwbench.batch_cells"
"""On the parent of a batch: how many configurations it holds."""
RESULT_ID_PARAM = "hwbench.result_id"

KEY_RULE = "key"
"""Findings about whom we trust, apart from what the evidence says: they change with the keyring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIndex:
    """What a tracking store says of one run. ``metrics`` holds every point ever logged, in any order."""

    run_id: str
    status: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict and what it rests on. ``result`` and ``samples`` are None where they cannot be read.

    ``digests`` holds the SHA-256 of every file that was given; ``index`` is what the result makes of itself, where a
    run was held against it.
    """

    verdict: Verdict
    digests: Mapping[str, str]
    result: BenchmarkResult | None = None
    samples: SampleSet | None = None
    signature: SignatureCheck | None = None
    index: ResultIndex | None = None


@dataclass(slots=True)
class _Case:
    """What one judgement gathers. ``digests`` are of the files, each of which is hashed once."""

    digests: Mapping[str, str]
    keyring: Keyring
    checking: Checking
    findings: list[Finding] = field(default_factory=list)

    def add(self, rule: str, effect: VerdictState, reason: str) -> None:
        self.findings.append(Finding(rule=rule, effect=effect, reason=reason))


def judge(
    artifacts: Mapping[str, bytes], run: RunIndex | None, keyring: Keyring, checking: Checking = check
) -> Judgement:
    """The verdict of a run's evidence, recomputed from its bytes.

    ``artifacts`` holds the run's files under ``hwbench/`` by file name; ``run`` is what the store says
    of it, or None for a result that is in no store yet (a file made by ``--out``); ``checking`` is who says what a
    signature is worth. Never raises for bad evidence: that is a verdict too.
    """
    case = _Case({name: sha256(data) for name, data in artifacts.items()}, keyring, checking)
    result = samples = signature = expected = None
    if RESULT_FILE not in artifacts:
        case.add("files", UNVERIFIED, f"{FOLDER}/{RESULT_FILE} is missing")
    else:
        result, samples = _decoded(case, artifacts)
        signature = _signed(case, artifacts, result)
    try:
        absurd = impossible(result) if result is not None else ()
        case.findings.extend(absurd)
        measured = None
        if result is not None and samples is not None and not absurd:
            measured = judge_result(result, samples)
            case.findings.extend(measured.findings)
        if run is not None:
            _bound(case, artifacts, run)
            if result is not None and not absurd:
                expected = index_of(result, case.digests[RESULT_FILE], measured or Verdict(state=UNVERIFIED))
                _indexed(case, run, expected, measured)
    except ArithmeticError as error:
        case.add("shape", CONTRADICTED, f"{RESULT_FILE} holds numbers that cannot be computed with: {error}")
    return Judgement(
        verdict=combine(case.findings), digests=case.digests, result=result, samples=samples, signature=signature,
        index=expected,
    )  # fmt: skip


def _decoded(case: _Case, artifacts: Mapping[str, bytes]) -> tuple[BenchmarkResult | None, SampleSet | None]:
    try:
        result = decode_result(artifacts[RESULT_FILE])
    except CorruptEvidence as error:
        case.add("files", UNVERIFIED, f"{RESULT_FILE}: {error}")
        return None, None
    raw = artifacts.get(SAMPLES_FILE)
    if raw is None:
        case.add("files", UNVERIFIED, f"{FOLDER}/{SAMPLES_FILE} is missing")
        return result, None
    if case.digests[SAMPLES_FILE] != result.samples_sha256:
        case.add("digests", CONTRADICTED, f"{SAMPLES_FILE} is not the file that {RESULT_FILE} was made from")
    try:
        return result, decode_samples(raw)
    except CorruptEvidence as error:
        case.add("files", UNVERIFIED, f"{SAMPLES_FILE}: {error}")
        return result, None


def _signed(case: _Case, artifacts: Mapping[str, bytes], result: BenchmarkResult | None) -> SignatureCheck | None:
    envelope = artifacts.get(ATTESTATION_FILE)
    if envelope is None:
        case.add("signature", UNVERIFIED, "it is not signed")
        return None
    found = case.checking(envelope, case.keyring)
    _trusted(case, found, "the result")
    if found.statement is None:
        return found
    if found.statement.predicate_type != RESULT_PREDICATE:
        case.add("signature", CONTRADICTED, "what was signed is not a benchmark result")
    subjects = dict(found.statement.subjects)
    # A file that is missing was said above, and proves nothing either way; one that is there must be the signed one.
    other = any(subjects.get(name) != case.digests[name] for name in SIGNED_FILES if name in artifacts)
    if other or subjects.keys() != set(SIGNED_FILES):
        case.add("signature", CONTRADICTED, "what was signed are not these files")
    elif result is not None and found.statement.predicate.get("result_id") != result.result_id:
        case.add("signature", CONTRADICTED, "what was signed is another result")
    return found


def _bound(case: _Case, artifacts: Mapping[str, bytes], run: RunIndex) -> None:
    if run.status != "FINISHED":
        case.add("run", UNVERIFIED, f"the run is {run.status}, not FINISHED")
    if RESULT_FILE not in artifacts:
        return
    digest, param = case.digests[RESULT_FILE], run.params.get(DIGEST_PARAM)
    if param is None:
        case.add("binding", UNVERIFIED, f"the run has no param {DIGEST_PARAM}")
    elif param != digest:
        case.add(
            "binding", CONTRADICTED, f"{RESULT_FILE} is not the one this run was logged with (param {DIGEST_PARAM})"
        )
    envelope = artifacts.get(BINDING_FILE)
    if envelope is None:
        case.add("binding", UNVERIFIED, "nothing signed says that the result belongs to this run")
        return
    found = case.checking(envelope, case.keyring)
    _trusted(case, found, "the binding to this run")
    if found.statement is None:
        return
    if found.statement.predicate_type != BINDING_PREDICATE:
        case.add("binding", CONTRADICTED, "what was signed is not a binding to a run")
    elif found.statement.predicate.get("run_id") != run.run_id:
        case.add("binding", CONTRADICTED, "the evidence belongs to another run: it was copied here")
    elif dict(found.statement.subjects) != {RESULT_FILE: digest}:
        case.add("binding", CONTRADICTED, "the binding is of another result")


def _trusted(case: _Case, found: SignatureCheck, what: str) -> None:
    if found.state == "trusted":
        return
    if found.state == "invalid":
        case.add("signature", CONTRADICTED, f"{what}: {found.reason}")
    else:
        case.add(KEY_RULE, UNVERIFIED, f"{what}: {found.reason}")


def _indexed(case: _Case, run: RunIndex, expected: ResultIndex, measured: Verdict | None) -> None:
    """The run's params, metrics and tags against those that the result makes.

    The expected verdict tag is what the measurement alone comes to: who signed it, and what became of the
    run since, are findings of their own. Where it cannot be known (None), any tag is neither right nor wrong.
    """
    for effect, reason in (
        *_strings("param", expected.params, run.params, frozenset(run.params)),
        *_tags(expected, run.tags, measured),
        *_points(expected, run.metrics),
    ):
        case.add("index", effect, reason)


def _strings(
    what: str, expected: Mapping[str, str], found: Mapping[str, str], ours: frozenset[str]
) -> Iterator[tuple[VerdictState, str]]:
    if found == expected:
        return
    wrong = () if expected.items() <= found.items() else expected.items()
    for name, value in wrong:
        if name not in found:
            yield UNVERIFIED, f"{what} {name} is missing"
        elif found[name] != value:
            yield CONTRADICTED, f"{what} {name} says {found[name][:80]!r}, the evidence {value[:80]!r}"
    for name in sorted(ours - expected.keys()):
        if name in found and name.startswith("hwbench."):
            yield CONTRADICTED, f"{what} {name} says {found[name][:80]!r}, the evidence nothing of it"


def _tags(
    expected: ResultIndex, found: Mapping[str, str], measured: Verdict | None
) -> Iterator[tuple[VerdictState, str]]:
    tags = dict(expected.tags)
    del tags[VERDICT_TAG]
    yield from _strings("tag", tags, found, OPTIONAL_TAGS)
    if "simulation_reason" in found and "simulation_reason" not in tags:
        yield CONTRADICTED, "tag simulation_reason is set on a result that is not simulated"
    said = found.get(VERDICT_TAG)
    if said is None:
        yield UNVERIFIED, f"tag {VERDICT_TAG} is missing"
    elif measured is not None and said not in {str(measured.state), str(UNVERIFIED)}:
        # A result that was logged unverified, because its key was not trusted then, may say so for ever.
        yield CONTRADICTED, f"tag {VERDICT_TAG} says {said[:80]!r}, the evidence {str(measured.state)!r}"


def _points(expected: ResultIndex, found: Mapping[str, Sequence[float]]) -> Iterator[tuple[VerdictState, str]]:
    if found == {name: [value] for name, value in expected.metrics.items()}:  # no NaN: it equals itself only as itself
        return
    for name, value in expected.metrics.items():
        points = found.get(name, ())
        if len(points) == 1 and points[0] == value:
            continue
        if not points:
            yield UNVERIFIED, f"metric {name} is missing"
        elif any(point != value for point in points):
            yield (
                CONTRADICTED,
                f"metric {name} was logged as {', '.join(f'{p:g}' for p in points[:3])}; the evidence says {value:g}",
            )
        elif len(points) > 1:
            yield CONTRADICTED, f"metric {name} was logged {len(points)} times"
    for name in sorted(ALL_METRICS.keys() & found.keys() - expected.metrics.keys()):
        yield CONTRADICTED, f"metric {name} was logged; the evidence holds no such value"


def seal(result: BenchmarkResult, samples: SampleSet, key: SigningKey) -> dict[str, bytes]:
    """The evidence files of a result, signed: file name -> bytes."""
    files = {RESULT_FILE: encode(result), SAMPLES_FILE: encode(samples)}
    statement = make_statement(
        {name: sha256(data) for name, data in files.items()},
        RESULT_PREDICATE,
        {
            "result_id": result.result_id,
            "hwbench_version": result.hwbench_version,
            "created_at": result.finished_at,
        },
    )
    return {**files, ATTESTATION_FILE: sign(statement, key)}


def bind(files: Mapping[str, bytes], result_id: str, run_id: str, bound_at: str, key: SigningKey) -> bytes:
    """A signed statement that this result was placed in that MLflow run: ``binding.dsse.json``."""
    statement = make_statement(
        {RESULT_FILE: sha256(files[RESULT_FILE])},
        BINDING_PREDICATE,
        {"result_id": result_id, "run_id": run_id, "bound_at": bound_at},
    )
    return sign(statement, key)
