"""The key directory: this machine's signing key, the keys it trusts and the keys it no longer trusts.

Owns every file under ``HWBENCH_HOME`` (else the user's configuration directory for hwbench). Imports
:mod:`.attest` and :mod:`.errors`; what a signature is worth is decided there, not here.

    ``signing_key.pem``   this machine's private key: PKCS #8, not encrypted, mode 0600
    ``trusted/*.json``    a trusted public key a file: keyid, name, host, added_at, public_key_pem;
    ``trusted/*.pem``     or only the key, named by its file
    ``revoked/*.json``    keyid, revoked_at, reason; wins over ``trusted/``

Directories that others can write to, and private keys that others can read, are refused with the command
that repairs them. Changes happen under one lock, and a file is replaced whole or not at all. The store
needs POSIX (owners and modes); :func:`.attest.check` does not.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import filelock
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # re-exported, no __all__

from hwbench_mlflow.attest import (
    KEY_SCHEMA_VERSION,
    MAX_KEY_BYTES,
    Keyring,
    Malformed,
    Revocation,
    SigningKey,
    TrustedKey,
    canonical_json,
    label,
    parse_object,
    parse_public_key,
)
from hwbench_mlflow.errors import KeyTrouble, UsageError
from hwbench_mlflow.home import default_home

PRIVATE_KEY_FILE = "signing_key.pem"
_KEYID = re.compile(r"[0-9a-f]{64}")
_KEYID_PREFIX = re.compile(r"[0-9a-f]{8,64}")


def load_keyring(home: Path | None = None) -> Keyring:
    """Read ``trusted/`` and ``revoked/``; no directory means no trusted key.

    Raises :class:`KeyTrouble` for a directory others can write to and for any file that is not a key or
    a revocation: a record that cannot be read must not be taken for one that is not there.
    """
    home = home or default_home()
    with _io(home):
        keys = [_read_trusted(path) for path in _files(home, "trusted")]
        gone = [_read_revocation(path) for path in _files(home, "revoked")]
    # Sorted files, the first wins: two names for one key change what it is called, not who it is.
    return Keyring(
        MappingProxyType({key.keyid: key for key in reversed(keys)}),
        MappingProxyType({revocation.keyid: revocation for revocation in reversed(gone)}),
    )


def signing_key(home: Path | None = None) -> SigningKey:
    """This machine's key, which is made on first use, and made anew if it was revoked; trusted here.

    Safe between processes: all get the same key. Raises :class:`KeyTrouble` for a key that is corrupt,
    readable by others, not ours, or in a directory others can write to; it is never replaced unasked.
    """
    home = home or default_home()
    with _io(home):
        current = _current(home)
        if current is not None and _settled(current, home):
            return current
        with _locked(home):
            current = _current(home)
            if current is None or current.keyid in load_keyring(home).revoked:
                return _make(home)
            _ensure_trusted(current, home)  # its record was removed, which is not what revokes a key
            return current


def _settled(key: SigningKey, home: Path) -> bool:
    ring = load_keyring(home)
    return key.keyid in ring.keys and key.keyid not in ring.revoked


def existing_key(home: Path | None = None) -> SigningKey | None:
    """This machine's key if there is one. Makes nothing; raises as :func:`signing_key` does."""
    home = home or default_home()
    with _io(home):
        return _current(home)


def derived_key(purpose: bytes, home: Path | None = None) -> bytes | None:
    """32 bytes that only who holds this machine's signing key can make, for one purpose: HKDF-SHA256 (RFC 5869) of the
    private key. None if there is no key or it was revoked: who else may have it is unknown. Raises as
    :func:`signing_key` does, and makes nothing."""
    home = home or default_home()
    with _io(home):
        key = _current(home)
        if key is None or key.keyid in load_keyring(home).revoked:
            return None
    private = load_pem_private_key(key.signer.private_bytes, password=None)
    assert isinstance(private, Ed25519PrivateKey)
    return HKDF(SHA256(), length=32, salt=None, info=purpose).derive(private.private_bytes_raw())


def make_key(home: Path | None = None, *, rotate: bool = False) -> SigningKey:
    """Make this machine's key now. If it has one that is not revoked: :class:`KeyTrouble`, unless
    ``rotate``, which destroys the old private key and goes on trusting what it signed."""
    home = home or default_home()
    with _io(home), _locked(home):
        current = _current(home)
        if current is not None and current.keyid not in load_keyring(home).revoked:
            if not rotate:
                raise KeyTrouble(
                    f"This machine already has a signing key, {current.keyid[:16]}",
                    remedy="`hwbench keys make --rotate` makes another and keeps trusting what this one signed",
                )
            _ensure_trusted(current, home)
        return _make(home)


def trust(key: TrustedKey, home: Path | None = None) -> TrustedKey:
    """Add a key to the ring, or rename one, from now on; returns it as it is kept. A revoked key stays so."""
    home = home or default_home()
    with _io(home), _locked(home):
        revocation = load_keyring(home).revoked.get(key.keyid)
        if revocation is not None:
            raise KeyTrouble(
                f"Key {key.keyid[:16]} was revoked here on {revocation.revoked_at}",
                remedy="Ask its owner for a new one",
            )
        kept = TrustedKey(keyid=key.keyid, name=key.name, host=key.host, added_at=_now(), public=key.public)
        _write(home / "trusted" / f"{key.keyid}.json", kept.to_json().encode())
        return kept


def revoke(keyid: str, home: Path | None = None, *, reason: str | None = None) -> Revocation:
    """Stop trusting a key, for all it ever signed; for good. ``keyid`` may be the first 8 digits or more of a
    key in the ring, or the whole of one that is not. Revoking again changes nothing: the first time stands."""
    home = home or default_home()
    with _io(home), _locked(home):
        ring = load_keyring(home)
        whole = _resolve(keyid, ring)
        if whole in ring.revoked:
            return ring.revoked[whole]
        text = None if reason is None else label(reason, "revocation reason")
        revocation = Revocation(keyid=whole, revoked_at=_now(), reason=text)
        record: dict[str, object] = {"keyid": whole, "reason": text, "revoked_at": revocation.revoked_at}
        record["schema_version"] = KEY_SCHEMA_VERSION
        _write(home / "revoked" / f"{whole}.json", canonical_json(record))
        return revocation


def _resolve(keyid: str, ring: Keyring) -> str:
    if not _KEYID_PREFIX.fullmatch(keyid):
        raise UsageError(f"{keyid!r} is not a key id: 64 hex digits, or the first 8 or more of them")
    if len(keyid) == 64:
        return keyid
    matches = sorted(known for known in {*ring.keys, *ring.revoked} if known.startswith(keyid))
    if len(matches) != 1:
        found = "no key" if not matches else f"{len(matches)} keys"
        raise UsageError(f"{found} here begin with {keyid}", remedy="`hwbench keys show` lists them")
    return matches[0]


def _make(home: Path) -> SigningKey:
    """A new private key, trusted. The caller holds the lock. Trusted first: a process that dies in between
    leaves a trusted key that nobody has, not a signing key that nobody trusts."""
    signer = CryptoSigner.generate_ed25519()
    public = _own_public(signer.public_key, _now())
    _write(home / "trusted" / f"{public.keyid}.json", public.to_json().encode())
    _write(home / PRIVATE_KEY_FILE, signer.private_bytes)
    return SigningKey(public, signer)


def _own_public(key: SSlibKey, added_at: str | None) -> TrustedKey:
    host = platform.node() or None
    public = bytes.fromhex(key.keyval["public"])
    return TrustedKey(keyid=key.keyid, name=host or "unnamed host", host=host, added_at=added_at, public=public)


def _ensure_trusted(key: SigningKey, home: Path) -> None:
    if key.keyid not in load_keyring(home).keys:
        public = _own_public(key.signer.public_key, _now())
        _write(home / "trusted" / f"{key.keyid}.json", public.to_json().encode())


def _current(home: Path) -> SigningKey | None:
    """The private key in the directory, None if there is none; KeyTrouble if it cannot be used safely."""
    path = home / PRIVATE_KEY_FILE
    if not _is_there(path):
        return None
    _check_directory(home)
    # O_NONBLOCK: a FIFO put in the key's place must not hang us. All checks are on what was opened.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        quoted = shlex.quote(str(path))
        if not stat.S_ISREG(status.st_mode):
            raise KeyTrouble(f"The signing key {path} is not a file", remedy=f"Move it away: mv {quoted} {quoted}.bad")
        if status.st_uid != os.geteuid():
            raise KeyTrouble(
                f"The signing key {path} belongs to user {status.st_uid}, not to user {os.geteuid()}",
                remedy="Set HWBENCH_HOME to a directory of your own",
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise KeyTrouble(
                f"The signing key {path} can be read by others (mode {stat.S_IMODE(status.st_mode):04o})",
                remedy=f"Run: chmod 600 {quoted} (and revoke this key if others may have read it)",
            )
        pem = os.read(descriptor, MAX_KEY_BYTES)
    finally:
        os.close(descriptor)
    signer = CryptoSigner(_private_key(pem, path))
    known = load_keyring(home).keys.get(signer.public_key.keyid)
    return SigningKey(known or _own_public(signer.public_key, None), signer)


def _private_key(pem: bytes, path: Path) -> Ed25519PrivateKey:
    trouble = KeyTrouble(
        f"The signing key {path} is not an Ed25519 private key in PEM without a password",
        remedy="Move it away: mv {0} {0}.bad".format(shlex.quote(str(path))),
    )
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise trouble from error
    if not isinstance(private, Ed25519PrivateKey):
        raise trouble
    return private


def _files(home: Path, name: str) -> list[Path]:
    """The records of one kind, sorted; names that begin with a dot are files being written."""
    folder = home / name
    if not _is_there(folder):
        return []
    _check_directory(home)
    _check_directory(folder)
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_there(path: Path) -> bool:
    """Unlike ``os.path.lexists``, what we may not look at is no "no": that raises."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _read_trusted(path: Path) -> TrustedKey:
    if path.suffix not in {".json", ".pem"}:
        raise KeyTrouble(f"{path} is not a trusted key: its name ends neither in .json nor in .pem", remedy="Remove it")
    try:
        return parse_public_key(_read(path), name=path.stem)
    except UsageError as error:
        raise KeyTrouble(f"{path} is not a trusted key: {error.args[0]}", remedy="Remove or restore it") from error


def _read_revocation(path: Path) -> Revocation:
    try:
        value = parse_object(_read(path), "it")
        if value.keys() != {"schema_version", "keyid", "revoked_at", "reason"}:
            raise Malformed("it has not the fields of a revocation")
        if value["schema_version"] != KEY_SCHEMA_VERSION:
            raise Malformed(f"its schema_version is not {KEY_SCHEMA_VERSION}")
        keyid, revoked_at, reason = value["keyid"], value["revoked_at"], value["reason"]
        if not isinstance(keyid, str) or not _KEYID.fullmatch(keyid):
            raise Malformed("it names no key")
        return Revocation(
            keyid=keyid,
            revoked_at=label(revoked_at, "revocation date"),
            reason=None if reason is None else label(reason, "revocation reason"),
        )
    except (Malformed, UsageError) as error:
        raise KeyTrouble(f"{path} is not a revocation: {error.args[0]}", remedy="Restore it") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_KEY_BYTES + 1)


def _write(path: Path, data: bytes) -> None:
    """Replace a file whole, readable by its owner only, on the disk before its name is."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    _check_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_directory(path: Path) -> None:
    """Refuse a directory that somebody other than us and root could put a key into."""
    ours = {os.geteuid(), 0}
    if path.is_symlink() and path.lstat().st_uid not in ours:
        raise KeyTrouble(
            f"The key directory {path} is a symbolic link made by user {path.lstat().st_uid}",
            remedy="Set HWBENCH_HOME to a directory of your own",
        )
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise KeyTrouble(f"{path} is not a directory", remedy="Set HWBENCH_HOME to one")
    if status.st_uid not in ours:
        raise KeyTrouble(
            f"The key directory {path} belongs to user {status.st_uid}, not to user {os.geteuid()}",
            remedy="Set HWBENCH_HOME to a directory of your own",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeyTrouble(
            f"Others can write to the key directory {path} (mode {stat.S_IMODE(status.st_mode):04o})",
            remedy=f"Run: chmod 700 {shlex.quote(str(path))}",
        )


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One process at a time changes the directory; made here if it is not there. Ends with the process."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_directory(home)
    with filelock.FileLock(home / ".lock", mode=0o600):
        yield


@contextmanager
def _io(home: Path) -> Iterator[None]:
    """The operating system's refusals, in one line that names the file."""
    try:
        yield
    except OSError as error:
        what = os.strerror(error.errno) if error.errno else str(error)
        hint = " to a writable directory" if error.errno in {errno.EROFS, errno.EACCES, errno.ENOSPC} else ""
        raise KeyTrouble(
            f"The keys in {home} cannot be used: {error.filename or home}: {what}",
            remedy=f"Repair it, or set HWBENCH_HOME{hint or ' to another directory'}",
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
