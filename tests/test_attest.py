from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported, no __all__

from hwbench_mlflow import attest
from hwbench_mlflow.attest import (
    BINDING_PREDICATE,
    MAX_ENVELOPE_BYTES,
    PAYLOAD_TYPE,
    RESULT_PREDICATE,
    CheckedAhead,
    Keyring,
    Revocation,
    SignatureCheck,
    SigningKey,
    TrustedKey,
    check,
    make_statement,
    parse_public_key,
    parse_statement,
    sign,
)
from hwbench_mlflow.errors import UsageError

SUBJECTS = {"result.json": "a1" * 32, "samples.json": "b2" * 32}
PREDICATE = {"result_id": "r-1", "hwbench_version": "0.1.0", "created_at": "2026-11-24T00:00:00+00:00"}


def _key(seed: int, name: str = "lab") -> SigningKey:
    signer = CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))
    public = TrustedKey(
        keyid=signer.public_key.keyid,
        name=name,
        host="host-1",
        added_at="2026-11-24T00:00:00+00:00",
        public=bytes.fromhex(signer.public_key.keyval["public"]),
    )
    return SigningKey(public, signer)


KEY = _key(1)
OTHER = _key(2, "other")
RING = Keyring({KEY.keyid: KEY.public})
STATEMENT = make_statement(SUBJECTS, RESULT_PREDICATE, PREDICATE)
ENVELOPE = sign(STATEMENT, KEY)


def _sign_anything(payload: bytes, key: SigningKey = KEY, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """A well-signed envelope around bytes that `sign` would refuse; PAE written out from the DSSE standard."""
    kind = payload_type.encode()
    pae = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    signature = bytes.fromhex(key.signer.sign(pae).signature)
    return _envelope(
        payload=base64.b64encode(payload).decode(),
        payloadType=payload_type,
        signatures=[{"keyid": key.keyid, "sig": base64.b64encode(signature).decode()}],
    )


def _envelope(**value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _edited(edit: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(ENVELOPE)
    edit(value)
    return _envelope(**value)


# --- Round trip


def test_what_a_trusted_key_signed_is_trusted_and_read_back() -> None:
    found = check(ENVELOPE, RING)
    assert found.state == "trusted"
    assert found.trusted
    assert (found.keyid, found.key_name, found.key_host) == (KEY.keyid, "lab", "host-1")
    assert found.statement is not None
    assert dict(found.statement.subjects) == SUBJECTS
    assert found.statement.predicate_type == RESULT_PREDICATE
    assert dict(found.statement.predicate) == PREDICATE


def test_the_signature_is_plain_ed25519_over_the_dsse_encoding() -> None:
    value = json.loads(ENVELOPE)
    payload = base64.b64decode(value["payload"])
    assert payload == STATEMENT
    pae = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
    public = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32).public_key()
    public.verify(base64.b64decode(value["signatures"][0]["sig"]), pae)
    assert _sign_anything(STATEMENT) == ENVELOPE


def test_the_statement_is_in_toto_v1_and_canonical() -> None:
    assert (
        make_statement(dict(reversed(SUBJECTS.items())), RESULT_PREDICATE, dict(reversed(PREDICATE.items())))
        == STATEMENT
    )
    assert json.loads(STATEMENT) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in SUBJECTS.items()],
        "predicateType": "urn:hwbench:benchmark-result:v1",
        "predicate": PREDICATE,
    }


def test_a_key_has_no_other_id_than_its_own() -> None:
    with pytest.raises(ValueError, match="is not the id of this key"):
        dataclasses.replace(KEY.public, keyid=OTHER.keyid)
    with pytest.raises(ValueError, match="is not the id of this key"):
        dataclasses.replace(KEY.public, public=OTHER.public.public)


def test_the_key_id_never_changes() -> None:
    # RFC 8032, test 1; the id is the SHA-256 of the canonical JSON that the module's docstring gives.
    public = Ed25519PublicKey.from_public_bytes(
        bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    )
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert parse_public_key(pem, name="rfc").keyid == "74c181c7ad8a0855d4b55e44d2ba87aabdddb196832571f15f92fece332e4916"


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text(min_size=1), st.from_regex(r"\A[0-9a-f]{64}\Z"), min_size=1, max_size=4),
    st.sampled_from([RESULT_PREDICATE, BINDING_PREDICATE]),
    st.dictionaries(
        st.text(),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    ),
)
def test_any_statement_survives_the_round_trip(
    subjects: dict[str, str], predicate_type: str, predicate: dict[str, Any]
) -> None:
    found = check(sign(make_statement(subjects, predicate_type, predicate), KEY), RING)
    assert found.trusted
    assert found.statement is not None
    assert dict(found.statement.subjects) == subjects
    assert dict(found.statement.predicate) == predicate


# --- Every other state


def test_a_key_outside_the_ring_is_untrusted_and_its_claim_shown() -> None:
    found = check(sign(STATEMENT, OTHER), RING)
    assert (found.state, found.keyid, found.key_name) == ("untrusted", OTHER.keyid, None)
    assert found.statement == parse_statement(STATEMENT)
    assert "not among the keys trusted here" in found.reason


def test_an_empty_ring_trusts_nobody() -> None:
    assert check(ENVELOPE, Keyring({})).state == "untrusted"


def test_a_revoked_key_is_not_trusted_for_what_it_signed_before() -> None:
    gone = Revocation(keyid=KEY.keyid, revoked_at="2026-11-25T00:00:00+00:00", reason="stolen")
    found = check(ENVELOPE, Keyring({KEY.keyid: KEY.public}, {KEY.keyid: gone}))
    assert found.state == "revoked"
    assert "2026-11-25" in found.reason
    assert "stolen" in found.reason
    assert check(ENVELOPE, Keyring({}, {KEY.keyid: gone})).state == "revoked"


def test_a_revoked_key_that_did_not_sign_these_bytes_is_invalid() -> None:
    gone = Revocation(keyid=KEY.keyid, revoked_at="2026-11-25T00:00:00+00:00", reason=None)
    forged = _edited(lambda e: e["signatures"][0].update(sig=base64.b64encode(b"\0" * 64).decode()))
    assert check(forged, Keyring({KEY.keyid: KEY.public}, {KEY.keyid: gone})).state == "invalid"


def test_a_stranger_who_uses_a_trusted_key_id_is_invalid() -> None:
    stolen = json.loads(sign(STATEMENT, OTHER))
    stolen["signatures"][0]["keyid"] = KEY.keyid
    found = check(_envelope(**stolen), RING)
    assert found.state == "invalid"
    assert found.statement is None


def test_a_changed_payload_is_invalid_and_not_shown() -> None:
    changed = make_statement({**SUBJECTS, "result.json": "c3" * 32}, RESULT_PREDICATE, PREDICATE)
    found = check(_edited(lambda e: e.update(payload=base64.b64encode(changed).decode())), RING)
    assert (found.state, found.statement) == ("invalid", None)


@pytest.mark.parametrize("length", [0, 63, 65, 128])
def test_a_signature_of_another_length_is_invalid(length: int) -> None:
    sig = base64.b64encode(b"\1" * length).decode()
    assert check(_edited(lambda e: e["signatures"][0].update(sig=sig)), RING).state == "invalid"


CORRUPT: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "not utf-8": (b"\xff\xfe{}", "not JSON"),
    "utf-16": (ENVELOPE.decode().encode("utf-16"), "not JSON"),
    "a list": (b"[]", "not a JSON object"),
    "nested without end": (b"[" * 100_000, "not JSON"),
    "huge": (b" " * (MAX_ENVELOPE_BYTES + 1), "larger than"),
    "a field more": (_edited(lambda e: e.update(more=1)), "not a DSSE envelope"),
    "no payload": (_edited(lambda e: e.pop("payload")), "not a DSSE envelope"),
    "payload not text": (_edited(lambda e: e.update(payload=1)), "not a DSSE envelope"),
    "payload not base64": (_edited(lambda e: e.update(payload="*")), "not base64"),
    "payload not ascii": (_edited(lambda e: e.update(payload="\ud800")), "not base64"),
    "another payload type": (_sign_anything(STATEMENT, payload_type="application/json"), "payloadType"),
    "no signature": (_edited(lambda e: e.update(signatures=[])), "exactly one signature"),
    "the signature twice": (_edited(lambda e: e["signatures"].append(e["signatures"][0])), "exactly one signature"),
    "signed by two": (
        _edited(lambda e: e["signatures"].append(json.loads(sign(STATEMENT, OTHER))["signatures"][0])),
        "exactly one signature",
    ),
    "signature not an object": (_edited(lambda e: e.update(signatures=["x"])), "keyid and a sig"),
    "signature without keyid": (_edited(lambda e: e["signatures"][0].pop("keyid")), "keyid and a sig"),
    "keyid not hex": (_edited(lambda e: e["signatures"][0].update(keyid="lab")), "keyid and a sig"),
    "sig not text": (_edited(lambda e: e["signatures"][0].update(sig=None)), "keyid and a sig"),
    "a duplicate key": (ENVELOPE.replace(b'{"payload":', b'{"payload":"eA==","payload":', 1), "twice"),
    "a space": (ENVELOPE.replace(b",", b", ", 1), "canonical"),
    "a line end": (ENVELOPE + b"\n", "canonical"),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_what_is_not_one_signed_statement_is_corrupt_with_its_reason(name: str) -> None:
    data, reason = CORRUPT[name]
    found = check(data, RING)
    assert (found.state, found.statement) == ("corrupt", None)
    assert reason in found.reason


def _statement(**changes: object) -> bytes:
    value = {**json.loads(STATEMENT), **changes}
    return json.dumps({k: v for k, v in value.items() if v is not ...}, sort_keys=True, separators=(",", ":")).encode()


SUBJECT = {"name": "result.json", "digest": {"sha256": "a1" * 32}}
BAD_STATEMENTS: dict[str, tuple[bytes, str]] = {
    "not json": (b"hello", "not JSON"),
    "another type": (_statement(_type="https://in-toto.io/Statement/v0.1"), "not an in-toto Statement v1"),
    "no predicate": (_statement(predicate=...), "not an in-toto Statement v1"),
    "a field more": (_statement(more=1), "not an in-toto Statement v1"),
    "empty predicate type": (_statement(predicateType=""), "predicate type"),
    "predicate a list": (_statement(predicate=[]), "not an object"),
    "no subject": (_statement(subject=[]), "no subject"),
    "subject not a list": (_statement(subject=SUBJECT), "no subject"),
    "subject a string": (_statement(subject=["result.json"]), "a name and a digest"),
    "subject without digest": (_statement(subject=[{"name": "result.json"}]), "a name and a digest"),
    "subject without name": (_statement(subject=[{**SUBJECT, "name": ""}]), "no name"),
    "digest empty": (_statement(subject=[{**SUBJECT, "digest": {}}]), "no SHA-256"),
    "digest of another kind": (_statement(subject=[{**SUBJECT, "digest": {"sha1": "a" * 40}}]), "no SHA-256"),
    "digest too short": (_statement(subject=[{**SUBJECT, "digest": {"sha256": "a1"}}]), "lower-case hex"),
    "digest in capitals": (_statement(subject=[{**SUBJECT, "digest": {"sha256": "A1" * 32}}]), "lower-case hex"),
    "digest null": (_statement(subject=[{**SUBJECT, "digest": {"sha256": None}}]), "lower-case hex"),
    "a subject twice": (_statement(subject=[SUBJECT, SUBJECT]), "a subject twice"),
    "a duplicate key": (STATEMENT.replace(b'{"_type"', b'{"predicateType":"x","_type"', 1), "twice"),
    "not canonical": (STATEMENT + b" ", "canonical"),
    "NaN": (_statement(predicate={"x": float("nan")}), "NaN is not JSON"),
    "an overflowing number": (_statement(predicate={"x": 1}).replace(b'"x":1', b'"x":1e999'), "written back"),
}


@pytest.mark.parametrize("name", BAD_STATEMENTS)
def test_a_well_signed_payload_that_is_no_statement_is_corrupt(name: str) -> None:
    payload, reason = BAD_STATEMENTS[name]
    found = check(_sign_anything(payload), RING)
    assert (found.state, found.statement) == ("corrupt", None)
    assert reason in found.reason


@pytest.mark.parametrize("name", BAD_STATEMENTS)
def test_what_is_no_statement_is_not_signed(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        sign(BAD_STATEMENTS[name][0], KEY)


@pytest.mark.parametrize(
    ("subjects", "predicate"),
    [({}, {}), ({"": "a1" * 32}, {}), ({"x": "a1"}, {}), (SUBJECTS, {"x": float("inf")})],
)
def test_no_statement_is_made_that_no_reader_would_accept(subjects: dict[str, str], predicate: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        make_statement(subjects, RESULT_PREDICATE, predicate)


# --- Any byte changed


def test_no_byte_of_the_envelope_can_change_unseen() -> None:
    for position in range(len(ENVELOPE)):
        for mask in (0x01, 0x02, 0x20, 0x80):
            changed = bytearray(ENVELOPE)
            changed[position] ^= mask
            assert check(bytes(changed), RING).state != "trusted", (position, mask)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(ENVELOPE) - 1), st.integers(1, 255))
def test_a_changed_byte_is_never_trusted(position: int, mask: int) -> None:
    changed = bytearray(ENVELOPE)
    changed[position] ^= mask
    assert not check(bytes(changed), RING).trusted


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(STATEMENT) - 1), st.integers(1, 255))
def test_a_changed_byte_of_the_payload_is_invalid(position: int, mask: int) -> None:
    payload = bytearray(STATEMENT)
    payload[position] ^= mask
    encoded = base64.b64encode(payload).decode()
    assert check(_edited(lambda e: e.update(payload=encoded)), RING).state == "invalid"


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 63), st.integers(1, 255))
def test_a_changed_byte_of_the_signature_is_invalid(position: int, mask: int) -> None:
    sig = bytearray(base64.b64decode(json.loads(ENVELOPE)["signatures"][0]["sig"]))
    sig[position] ^= mask
    encoded = base64.b64encode(sig).decode()
    assert check(_edited(lambda e: e["signatures"][0].update(sig=encoded)), RING).state == "invalid"


@pytest.mark.parametrize("position", range(64))
def test_a_changed_digit_of_the_key_id_is_untrusted(position: int) -> None:
    digit = "0" if KEY.keyid[position] != "0" else "1"
    other = KEY.keyid[:position] + digit + KEY.keyid[position + 1 :]
    assert check(_edited(lambda e: e["signatures"][0].update(keyid=other)), RING).state == "untrusted"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_corrupt_and_raise_nothing(data: bytes) -> None:
    assert check(data, RING).state == "corrupt"


# --- Public keys


def test_a_public_key_is_read_back_from_pem_and_from_json() -> None:
    from_pem = parse_public_key(KEY.public.pem.encode(), name="mine")
    assert (from_pem.keyid, from_pem.name, from_pem.host, from_pem.added_at) == (KEY.keyid, "mine", None, None)
    assert parse_public_key(KEY.public.to_json().encode(), name="ignored") == KEY.public
    assert "\n" not in KEY.public.to_json()


def _other_kind() -> bytes:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _json_key(**changes: object) -> bytes:
    return json.dumps({**json.loads(KEY.public.to_json()), **changes}).encode()


BAD_KEYS: dict[str, tuple[bytes, str]] = {
    "a private key": (KEY.signer.private_bytes, "private key"),
    "a private key behind a public one": (KEY.public.pem.encode() + KEY.signer.private_bytes, "private key"),
    "an OpenSSH private key": (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "private key"),
    "another algorithm": (_other_kind(), "Ed25519"),
    "two keys": (KEY.public.pem.encode() * 2, "not one Ed25519"),
    "garbage": (b"\x00\x01garbage", "not a public key"),
    "empty": (b"", "not a public key"),
    "cut short": (KEY.public.pem.encode()[:60], "not a public key"),
    "huge": (b"x" * 100_000, "too large"),
    "another key id": (_json_key(keyid=OTHER.keyid), "keyid is not that of its key"),
    "another schema": (_json_key(schema_version=2), "schema_version"),
    "a field more": (_json_key(more=1), "fields"),
    "no pem": (_json_key(public_key_pem=None), "public_key_pem"),
    "an empty name": (_json_key(name=" "), "name"),
    "a name that moves the cursor": (_json_key(name="lab\x1b[2J"), "printable"),
    "a name that reverses": (_json_key(name="lab\u202e"), "printable"),
    "json cut short": (KEY.public.to_json().encode()[:-1], "not a public key"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_what_is_not_one_public_ed25519_key_is_refused(name: str) -> None:
    data, reason = BAD_KEYS[name]
    with pytest.raises(UsageError, match=reason):
        parse_public_key(data, name="x")


def test_what_was_checked_ahead_is_what_check_says_of_these_bytes_and_this_ring() -> None:
    envelopes = [ENVELOPE, sign(STATEMENT, OTHER), ENVELOPE[:-1], _envelope(payloadType="x"), b""]
    ahead = CheckedAhead(envelopes[:-1], RING)
    assert [ahead.check(e, RING) for e in envelopes] == [check(e, RING) for e in envelopes]
    assert ahead.check(ENVELOPE, RING).trusted
    gone = Keyring(RING.keys, {KEY.keyid: Revocation(keyid=KEY.keyid, revoked_at="2026-01-01", reason=None)})
    for other in (gone, Keyring({})):
        assert ahead.check(ENVELOPE, other) == check(ENVELOPE, other)
        assert not ahead.check(ENVELOPE, other).trusted


# --- The short way to read an envelope, beside the long one ---------------------------------------


def _both_ways(envelope: bytes) -> tuple[SignatureCheck, SignatureCheck]:
    """What :func:`check` says, and what it says where nothing is read the short way."""
    short = check(envelope, RING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attest, "_plain", lambda *_: None)
        patch.setattr(attest, "_CANONICAL_ENVELOPE", re.compile(rb"(?!)"))
        return short, check(envelope, RING)


def _key_twice(data: bytes) -> bytes:
    return data.replace(b"{", b'{"predicateType":"x",', 1)


def _key_twice_below(data: bytes) -> bytes:
    return data.replace(b'"predicate":{', b'"predicate":{"result_id":"r-2",').replace(
        b'"keyid":', b'"keyid":"","keyid":'
    )


def _escaped(data: bytes) -> bytes:
    return data.replace(b"result.json", b"result\\u002ejson").replace(b"payloadType", b"payload\\u0054ype")


def _solidus(data: bytes) -> bytes:
    return data.replace(b"/", b"\\/", 1)


def _more(data: bytes) -> bytes:
    return data.replace(b"{", b'{"aa":1,', 1)


def _more_below(data: bytes) -> bytes:
    return data.replace(b'"digest":{', b'"digest":{"md5":"x",', 1).replace(b'"keyid":', b'"cert":"x","keyid":', 1)


def _number(data: bytes) -> bytes:
    return data.replace(b'"r-1"', b"1.0").replace(b'"predicate":{', b'"predicate":{"a":1e2,')


def _another_order(data: bytes) -> bytes:
    try:
        value = json.loads(data)
    except ValueError:  # another edit came first
        return data
    items = reversed(value.items()) if isinstance(value, dict) else ()
    return json.dumps(dict(items), separators=(",", ":")).encode()


def _subject_twice(data: bytes) -> bytes:
    return data.replace(b"samples.json", b"result.json")


def _space(data: bytes) -> bytes:
    return data.replace(b":", b": ", 1)


def _beyond_ascii(data: bytes) -> bytes:
    return data.replace(b"0.1.0", "0.1.\u00e9\u2028\x7f".encode())


def _upper(data: bytes) -> bytes:
    return data.replace(b"a1a1", b"A1A1")


CHANGES: list[Callable[[bytes], bytes]] = [
    _key_twice, _key_twice_below, _escaped, _solidus, _more, _more_below, _number, _another_order, _subject_twice,
    _space, _beyond_ascii, _upper, lambda data: data + b"\n", lambda data: b" " + data, lambda data: data + data,
    lambda data: b"\xef\xbb\xbf" + data, lambda data: data.replace(b"=", b""), lambda data: data.replace(b'"', b"'"),
    lambda data: data.replace(b'"r-1"', b"null"), lambda data: data.replace(b'"r-1"', b'{"b":[],"a":{}}'),
    lambda data: data.replace(b'"r-1"', b'"\\ud800"'), lambda data: data.replace(b'"r-1"', b'"<&\x01>"'),
    lambda data: data.replace(b'"sig":"', b'"sig":"AA'), lambda data: data.replace(b"result.json", b""),
    lambda data: data.replace(b"benchmark-result:v1", b""), lambda data: data.replace(b"v1", b"v2"),
]  # fmt: skip
EDITS = st.one_of(
    st.sampled_from(CHANGES),
    st.builds(
        lambda at, mask: lambda data: b"".join((data[: at % len(data)], bytes([data[at % len(data)] ^ mask]),
                                                data[at % len(data) + 1 :])) if data else data,
        st.integers(0, 4000), st.integers(1, 255),
    ),
    st.builds(lambda at: lambda data: data[: at % (len(data) + 1)], st.integers(0, 4000)),
    st.builds(
        lambda at, more: lambda data: data[: at % (len(data) + 1)] + more + data[at % (len(data) + 1) :],
        st.integers(0, 4000), st.sampled_from([bytes([byte]) for byte in b' \t\n\\",0\x00\x7f\xff=']),
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.lists(EDITS, max_size=2), st.lists(EDITS, max_size=2))
def test_the_short_way_says_what_the_long_way_does(
    inside: list[Callable[[bytes], bytes]], outside: list[Callable[[bytes], bytes]]
) -> None:
    """``inside`` changes the payload before it is signed: a trusted key may sign what hwbench does not write."""
    payload = STATEMENT
    for edit in inside:
        payload = edit(payload)
    envelope = _sign_anything(payload)
    for edit in outside:
        envelope = edit(envelope)
    short, long = _both_ways(envelope)
    assert short == long
    if payload == STATEMENT and envelope == ENVELOPE:
        assert short.trusted


@pytest.mark.parametrize("n", range(len(CHANGES)))
def test_each_known_change_is_read_alike_in_and_around_the_payload(n: int) -> None:
    for envelope in (_sign_anything(CHANGES[n](STATEMENT)), CHANGES[n](ENVELOPE)):
        short, long = _both_ways(envelope)
        assert short == long


def test_the_short_way_is_taken_for_what_hwbench_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attest, "parse_object", lambda *_: pytest.fail("the long way was taken"))
    assert check(ENVELOPE, RING).trusted


def test_a_signing_key_does_not_show_its_private_half() -> None:
    private = KEY.signer.private_bytes.decode().splitlines()[1]
    assert private not in repr(KEY)
    assert "PRIVATE" not in repr(KEY)
