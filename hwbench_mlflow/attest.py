"""Who says so, and is it unchanged: in-toto Statements in DSSE envelopes, signed Ed25519.

Owns the form of ``hwbench/attestation.dsse.json`` and of public keys; pure functions of bytes, the files are
:mod:`.keystore`'s. Imports :mod:`.errors` and, for everything cryptographic, securesystemslib, cryptography and PyNaCl;
only the last at once: who checks what hwbench wrote needs no other.

What a signature proves, and what it does not
    A signature proves *who* (the holder of one private key) and *unchanged* (these bytes, since they
    were signed). It does not prove *true*: whoever is root on the host can lie to the runner about
    clocks and devices, or read the private key and sign what they like. Nothing kept on that host can
    show such a lie; only an independent replication, on hardware and with a key they do not hold, can.
    So a verifier trusts the keys in its own ring and nothing else, and the verdict needs more than this.

    There is no trusted timestamp either: a stolen key can sign with any date. A revoked key is therefore
    not trusted for anything, however long before its revocation the signature claims to have been made.

Who means what
    :data:`RESULT_PREDICATE` says "this machine's runner wrote this result": its subjects are the digests
    of ``result.json`` and ``samples.json``. :data:`BINDING_PREDICATE` says "this result was placed in this
    MLflow run", by whoever logged or pushed it. A reader must compare ``predicate_type``, the predicate's
    ids and the subjects' digests with what it holds: :func:`check` looks at the signature only.

A keyid is securesystemslib's: the SHA-256, in lower-case hex, of the canonical JSON of
``{"keytype": "ed25519", "keyval": {"public": <32 bytes, hex>}, "scheme": "ed25519"}``.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from hwbench_mlflow.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported, no __all__

RESULT_PREDICATE = "urn:hwbench:benchmark-result:v1"
"""Predicate: ``result_id``, ``hwbench_version``, ``created_at`` (UTC, ISO 8601)."""

BINDING_PREDICATE = "urn:hwbench:run-binding:v1"
"""Predicate: ``result_id``, ``run_id`` (the MLflow run), ``bound_at`` (UTC, ISO 8601)."""

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
KEY_SCHEMA_VERSION = 1
MAX_ENVELOPE_BYTES = 1 << 20  # ours are about 1 kB; a reader need not parse what a stranger made huge
MAX_KEY_BYTES = 1 << 16

_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")
_CANONICAL_ENVELOPE = re.compile(
    rb'\{"payload":"([A-Za-z0-9+/]*={0,2})","payloadType":"%b","signatures":\[\{"keyid":"([0-9a-f]{64})",'
    rb'"sig":"([A-Za-z0-9+/]*={0,2})"\}\]\}' % re.escape(PAYLOAD_TYPE.encode())
)
"""What :func:`canonical_json` makes of an envelope that hwbench writes: nothing in it can be written in two ways but
the base64. Anything else is read the long way."""
_PAE = b"DSSEv1 %d %b " % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode())
_SIGNATURE_BYTES = 64
_PUBLIC_BYTES = 32


# --- Statements ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Statement:
    """A parsed in-toto Statement. ``subjects`` is name -> SHA-256 in hex, never empty."""

    subjects: Mapping[str, str]
    predicate_type: str
    predicate: Mapping[str, Any]


class Malformed(ValueError):
    """Not the bytes hwbench writes; the message completes "it is corrupt: ..."."""


def canonical_json(value: object) -> bytes:
    """The one way a value is written: sorted keys, no spaces, ASCII, no NaN or infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a JSON object has the same key twice")
    return found


def _no_constant(name: str) -> object:
    raise Malformed(f"{name} is not JSON")


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object without duplicate keys. Raises :class:`Malformed`."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{what} is not JSON in UTF-8") from error
    if not isinstance(value, dict):
        raise Malformed(f"{what} is not a JSON object")
    return value


def make_statement(subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    """An in-toto Statement v1 as canonical JSON: the same arguments always give the same bytes.

    ``subjects`` is name -> SHA-256 in lower-case hex. Raises ValueError for what no reader would accept:
    no subject, a digest of another form, a predicate that is not JSON.
    """
    data = canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"digest": {"sha256": subjects[name]}, "name": name} for name in sorted(subjects)],
            "predicateType": predicate_type,
            "predicate": dict(predicate),
        }
    )
    parse_statement(data)
    return data


_HEX = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]
_SOME = Annotated[str, msgspec.Meta(min_length=1)]


class _Digest(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    sha256: _HEX


class _Subject(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    digest: _Digest
    name: _SOME


class _Statement(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Fields in the order of the canonical form. A predicate of texts only: numbers have more than one form."""

    kind: str = msgspec.field(name="_type")
    predicate: dict[str, str]
    predicate_type: _SOME = msgspec.field(name="predicateType")
    subject: Annotated[list[_Subject], msgspec.Meta(min_length=1)]


_plain_encoder = msgspec.json.Encoder(order="sorted")
_plain_statement = msgspec.json.Decoder(_Statement)


def _plain(data: bytes) -> _Statement | None:
    """The statement of bytes in the form that hwbench writes; None where the long way must say what they are.

    Five times as fast as the long way, and never its better: in printable ASCII without an escape, msgspec writes
    exactly what :func:`canonical_json` writes, so bytes that come back the same are canonical.
    """
    if b"\\" in data or b"\x7f" in data or not data.isascii():
        return None
    try:
        value = _plain_statement.decode(data)
    except msgspec.DecodeError:
        return None
    return value if _plain_encoder.encode(value) == data else None


def parse_statement(data: bytes) -> Statement:
    """Read what :func:`make_statement` writes, and nothing else: ValueError says why not."""
    plain = _plain(data)
    if plain is not None and plain.kind == STATEMENT_TYPE:
        named = {subject.name: subject.digest.sha256 for subject in plain.subject}
        if len(named) == len(plain.subject):
            return Statement(MappingProxyType(named), plain.predicate_type, MappingProxyType(plain.predicate))
    value = parse_object(data, "the payload")
    if value.keys() != {"_type", "subject", "predicateType", "predicate"} or value["_type"] != STATEMENT_TYPE:
        raise Malformed("the payload is not an in-toto Statement v1")
    if not isinstance(value["predicateType"], str) or not value["predicateType"]:
        raise Malformed("the statement has no predicate type")
    if not isinstance(value["predicate"], dict):
        raise Malformed("the statement's predicate is not an object")
    if not isinstance(value["subject"], list) or not value["subject"]:
        raise Malformed("the statement has no subject")
    subjects: dict[str, str] = {}
    for subject in value["subject"]:
        name, digest = _subject(subject)
        if name in subjects:
            raise Malformed("the statement names a subject twice")
        subjects[name] = digest
    _require_canonical(value, data, "the payload")
    return Statement(MappingProxyType(subjects), value["predicateType"], MappingProxyType(value["predicate"]))


def _subject(subject: object) -> tuple[str, str]:
    if not isinstance(subject, dict) or subject.keys() != {"name", "digest"}:
        raise Malformed("a subject is not a name and a digest")
    name, digest = subject["name"], subject["digest"]
    if not isinstance(name, str) or not name:
        raise Malformed("a subject has no name")
    if not isinstance(digest, dict) or digest.keys() != {"sha256"}:
        raise Malformed("a subject has no SHA-256 digest")
    if not isinstance(digest["sha256"], str) or not _HEX_SHA256.fullmatch(digest["sha256"]):
        raise Malformed("a subject's digest is not a SHA-256 in lower-case hex")
    return name, digest["sha256"]


def _require_canonical(value: object, data: bytes, what: str) -> None:
    """One value, one encoding: else base64's spare bits or a space could change unseen."""
    try:
        same = canonical_json(value) == data
    except (ValueError, RecursionError) as error:  # 1e999 reads as infinity, which JSON cannot write
        raise Malformed(f"{what} cannot be written back as JSON") from error
    if not same:
        raise Malformed(f"{what} is not in canonical form")


# --- Keys ---------------------------------------------------------------------------------------


def keyid_of(public: bytes) -> str:
    """The identity of an Ed25519 public key, as the head of this module has it."""
    named = {"keytype": "ed25519", "keyval": {"public": public.hex()}, "scheme": "ed25519"}
    return hashlib.sha256(canonical_json(named)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A public key (32 bytes) with what its holder is called here. ``name`` is a label, never an identity: that is
    ``keyid``. ``host`` and ``added_at`` (UTC, ISO 8601) are None where only the key itself was kept.

    Raises ValueError where ``keyid`` is not that of ``public``.
    """

    keyid: str
    name: str
    host: str | None
    added_at: str | None
    public: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.keyid != keyid_of(self.public):
            raise ValueError(f"{self.keyid[:16]} is not the id of this key")

    @property
    def pem(self) -> str:
        """The public key as PEM (SubjectPublicKeyInfo)."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return _openssl_key(self.public).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def renamed(self, name: str) -> TrustedKey:
        """The same key, called otherwise. Raises :class:`UsageError` for a name that cannot be shown."""
        return replace(self, name=label(name, "name"))

    def to_json(self) -> str:
        """The key with its name on one line; :func:`parse_public_key` reads it back."""
        return canonical_json(
            {
                "schema_version": KEY_SCHEMA_VERSION,
                "keyid": self.keyid,
                "name": self.name,
                "host": self.host,
                "added_at": self.added_at,
                "public_key_pem": self.pem,
            }
        ).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """When and why a key stopped being trusted. ``revoked_at`` is UTC, ISO 8601."""

    keyid: str
    revoked_at: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, ready to sign, with the public half that others know it by."""

    public: TrustedKey
    signer: CryptoSigner = field(repr=False)

    @property
    def keyid(self) -> str:
        """The key's identity, 64 hex digits."""
        return self.public.keyid


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys a verifier trusts, by keyid, parsed once. A revoked key may still be in ``keys``: it says
    whose it was, and :func:`check` looks at ``revoked`` first."""

    keys: Mapping[str, TrustedKey]
    revoked: Mapping[str, Revocation] = field(default_factory=dict)

    def trusted(self) -> tuple[TrustedKey, ...]:
        """The keys whose signatures count, by name."""
        return tuple(
            sorted((k for k in self.keys.values() if k.keyid not in self.revoked), key=lambda k: (k.name, k.keyid))
        )


def parse_public_key(data: bytes, *, name: str, host: str | None = None, added_at: str | None = None) -> TrustedKey:
    """An Ed25519 public key from PEM, or from the JSON of :meth:`TrustedKey.to_json`, whose own name, host
    and date are kept. ``name`` is used for PEM. Raises :class:`UsageError`, also for a private key."""
    if b"PRIVATE KEY" in data:
        raise UsageError(
            "This is a private key: whoever reads it can sign as its owner",
            remedy="Ask for the output of `hwbench keys export`, and for the private key to be revoked",
        )
    if len(data) > MAX_KEY_BYTES:
        raise UsageError("This is too large to be a public key")
    if not data.lstrip().startswith(b"{"):
        return _trusted_key(data, name, host, added_at)
    try:
        value = parse_object(data, "the key file")
        if value.keys() != {"schema_version", "keyid", "name", "host", "added_at", "public_key_pem"}:
            raise Malformed("the key file has not the fields of a public key")
        if value["schema_version"] != KEY_SCHEMA_VERSION:
            raise Malformed(f"the key file has schema_version {value['schema_version']!r}, not {KEY_SCHEMA_VERSION}")
        if not isinstance(value["public_key_pem"], str):
            raise Malformed("the key file has no public_key_pem")
        key = _trusted_key(value["public_key_pem"].encode(), value["name"], value["host"], value["added_at"])
        if key.keyid != value["keyid"]:
            raise Malformed("the key file's keyid is not that of its key")
    except ValueError as error:
        raise UsageError(f"This is not a public key: {error}") from error
    return key


def _trusted_key(pem: bytes, name: object, host: object, added_at: object) -> TrustedKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError("This is not a public key in PEM", remedy="`hwbench keys export` writes one") from error
    if not isinstance(key, Ed25519PublicKey) or pem.count(b"-----BEGIN") != 1:
        raise UsageError("This is not one Ed25519 public key", remedy="`hwbench keys export` writes one")
    public = key.public_bytes_raw()
    return TrustedKey(
        keyid=keyid_of(public),
        name=label(name, "name"),
        host=None if host is None else label(host, "host"),
        added_at=None if added_at is None else label(added_at, "added_at"),
        public=public,
    )


def label(value: object, what: str) -> str:
    """Names reach terminals and reports: printable, short, and not empty."""
    if not isinstance(value, str) or not value.strip() or len(value) > 100 or not value.isprintable():
        raise UsageError(f"The key's {what} is not 1 to 100 printable characters")
    return value


# --- Signing and checking -----------------------------------------------------------------------


class SignatureState(StrEnum):
    """What a signature is worth to one verifier. Only ``trusted`` is worth anything."""

    TRUSTED = "trusted"
    UNTRUSTED = "untrusted"
    REVOKED = "revoked"
    INVALID = "invalid"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureCheck:
    """The answer of :func:`check`.

    ``keyid`` is what the envelope claims; ``key_name`` and ``key_host`` what this ring calls that key.
    ``statement`` is None if the signature is invalid or the envelope corrupt; if it is untrusted or
    revoked, the statement is what somebody claims, for showing only.
    """

    state: SignatureState
    reason: str
    keyid: str | None = None
    key_name: str | None = None
    key_host: str | None = None
    statement: Statement | None = None

    @property
    def trusted(self) -> bool:
        """True only for the one state that proves who and unchanged."""
        return self.state is SignatureState.TRUSTED


def sign(statement: bytes, key: SigningKey) -> bytes:
    """The DSSE envelope of a statement, signed, as canonical JSON. ValueError if it is not a statement."""
    from securesystemslib.dsse import Envelope

    parse_statement(statement)
    envelope = Envelope(statement, PAYLOAD_TYPE, {})
    envelope.sign(key.signer)
    return canonical_json(envelope.to_dict())


def check(envelope: bytes, keyring: Keyring) -> SignatureCheck:
    """What the signature on ``envelope`` is worth to whoever trusts ``keyring``. Never raises for bad bytes.

    ``corrupt``: not an envelope of one statement with one signature, in the form hwbench writes.
    ``untrusted``: nobody in the ring. ``invalid``: the key is in the ring and did not sign these bytes.
    ``revoked``: the key is on the list of revoked ones (and, if known, did sign these bytes).
    """
    try:
        payload, signature, keyid = _parse_envelope(envelope)
    except Malformed as error:
        return SignatureCheck(state=SignatureState.CORRUPT, reason=f"The attestation is corrupt: {error}")
    known = keyring.keys.get(keyid)
    revocation = keyring.revoked.get(keyid)

    def answer(state: SignatureState, reason: str, statement: Statement | None = None) -> SignatureCheck:
        return SignatureCheck(
            state=state,
            reason=reason,
            keyid=keyid,
            key_name=known.name if known else None,
            key_host=known.host if known else None,
            statement=statement,
        )

    # The signature before its content: nothing is read from bytes that a known key did not sign.
    if known is not None and not _verified(known, keyid, signature, payload):
        reason = f"The signature is not {known.name}'s (key {keyid[:16]}) over these bytes: they were changed"
        return answer(SignatureState.INVALID, reason)
    try:
        statement = parse_statement(payload)
    except Malformed as error:
        return answer(SignatureState.CORRUPT, f"The attestation is corrupt: {error}")
    if revocation is not None:
        why = f" ({revocation.reason})" if revocation.reason else ""
        reason = f"Key {keyid[:16]} was revoked on {revocation.revoked_at}{why}; nothing it signed is trusted"
        return answer(SignatureState.REVOKED, reason, statement)
    if known is None:
        return answer(SignatureState.UNTRUSTED, f"Key {keyid[:16]} is not among the keys trusted here", statement)
    return answer(SignatureState.TRUSTED, f"Signed by {known.name} (key {keyid[:16]})", statement)


class CheckedAhead:
    """:func:`check` of many envelopes with one keyring at once, for whoever judges many runs afterwards.

    Turn by turn with the rest of judging, each takes half as long again: neither's code and tables are still in the
    core's caches when their turn comes. What was not given is checked when it is asked for.
    """

    def __init__(self, envelopes: Iterable[bytes], keyring: Keyring) -> None:
        self._keyring = keyring
        self._answers = {envelope: check(envelope, keyring) for envelope in envelopes}

    def check(self, envelope: bytes, keyring: Keyring) -> SignatureCheck:
        """What :func:`check` says of these bytes and this keyring."""
        known = self._answers.get(envelope) if keyring is self._keyring else None
        return check(envelope, keyring) if known is None else known


Checking = Callable[[bytes, Keyring], SignatureCheck]
"""Either of the two."""


def _verified(known: TrustedKey, keyid: str, signature: bytes, payload: bytes) -> bool:
    """Whether that key signed the payload. What is signed is DSSE's pre-authentication encoding.

    libsodium is asked first: it takes less than half of OpenSSL's time, and knows fewer signatures for good (no keys
    or points of small order), so its yes is OpenSSL's yes. Its no is OpenSSL's to say.
    """
    if known.keyid != keyid:
        return False
    signed = _PAE + b"%d %b" % (len(payload), payload)
    public = known.public
    if len(signature) == _SIGNATURE_BYTES and len(public) == _PUBLIC_BYTES:
        try:
            return crypto_sign_open(signature + signed, public) == signed
        except BadSignatureError:
            pass
    from cryptography.exceptions import InvalidSignature

    try:
        _openssl_key(public).verify(signature, signed)
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=1024)
def _openssl_key(public: bytes) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(public)


def _parse_envelope(data: bytes) -> tuple[bytes, bytes, str]:
    """The payload, the only signature and its keyid. Raises :class:`Malformed`."""
    if len(data) > MAX_ENVELOPE_BYTES:
        raise Malformed(f"it is larger than {MAX_ENVELOPE_BYTES} bytes")
    plain = _CANONICAL_ENVELOPE.fullmatch(data)
    if plain is not None:
        payload, signature = _from_base64(plain[1]), _from_base64(plain[3])
        if payload is not None and signature is not None:
            return payload, signature, plain[2].decode()
    value = parse_object(data, "it")
    if value.keys() != {"payload", "payloadType", "signatures"} or not isinstance(value["payload"], str):
        raise Malformed("it is not a DSSE envelope")
    if value["payloadType"] != PAYLOAD_TYPE:
        raise Malformed(f"its payloadType is not {PAYLOAD_TYPE}")
    signatures = value["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise Malformed("it has not exactly one signature")
    found = signatures[0]
    if not isinstance(found, dict) or found.keys() != {"keyid", "sig"}:
        raise Malformed("its signature is not a keyid and a sig")
    keyid = found["keyid"]
    if not isinstance(keyid, str) or not _HEX_SHA256.fullmatch(keyid) or not isinstance(found["sig"], str):
        raise Malformed("its signature is not a keyid and a sig")
    from securesystemslib.dsse import Envelope

    try:
        envelope = Envelope.from_dict(value)
    except ValueError as error:  # binascii.Error is one
        raise Malformed("it is not base64") from error
    _require_canonical(envelope.to_dict(), data, "it")
    return envelope.payload, bytes.fromhex(envelope.signatures[keyid].signature), keyid


def _from_base64(text: bytes) -> bytes | None:
    """The bytes of text in the one form that encodes them; None for any other."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return None
    return data if binascii.b2a_base64(data, newline=False) == text else None
