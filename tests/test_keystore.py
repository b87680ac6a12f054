from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported, no __all__

from hwbench_mlflow import keystore
from hwbench_mlflow.attest import (
    RESULT_PREDICATE,
    SignatureCheck,
    SigningKey,
    TrustedKey,
    check,
    make_statement,
    parse_public_key,
    sign,
)
from hwbench_mlflow.errors import KeyTrouble, UsageError
from hwbench_mlflow.home import default_home

STATEMENT = make_statement({"result.json": "a1" * 32}, RESULT_PREDICATE, {"result_id": "r-1"})

RACE = """
import sys
from pathlib import Path
from hwbench_mlflow import keystore
print("ready", flush=True)
sys.stdin.readline()
print({call}.keyid, flush=True)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _stranger() -> TrustedKey:
    signer = CryptoSigner.generate_ed25519()
    return parse_public_key(SigningKey(_public(signer), signer).public.pem.encode(), name="stranger")


def _public(signer: CryptoSigner) -> TrustedKey:
    key = signer.public_key
    public = bytes.fromhex(key.keyval["public"])
    return TrustedKey(keyid=key.keyid, name="x", host=None, added_at=None, public=public)


def _checked(key: SigningKey, home: Path) -> SignatureCheck:
    return check(sign(STATEMENT, key), keystore.load_keyring(home))


def _give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``path`` somebody else's: really if we may, else by being somebody else ourselves."""
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    else:
        mine = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: mine + 1)


def _together(call: str, home: Path, count: int = 3) -> list[str]:
    """What ``count`` processes print that run ``call`` at the same moment."""
    env = {**os.environ, "HWBENCH_HOME": str(home)}
    command = [sys.executable, "-c", RACE.format(call=call)]
    processes = [
        subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    return answers


# --- Making


def test_the_key_is_made_on_first_use_and_trusted_and_kept(home: Path) -> None:
    key = keystore.signing_key(home)
    assert keystore.signing_key(home).keyid == key.keyid
    assert _checked(key, home).trusted
    assert _mode(home) == 0o700
    assert _mode(home / "trusted") == 0o700
    assert _mode(home / "signing_key.pem") == 0o600


def test_a_loose_umask_does_not_loosen_the_key(home: Path) -> None:
    before = os.umask(0)
    try:
        keystore.signing_key(home)
    finally:
        os.umask(before)
    assert _mode(home) == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in home.rglob("*"))


def test_processes_that_make_the_key_at_once_get_the_same(home: Path) -> None:
    answers = _together("keystore.signing_key()", home)
    assert set(answers) == {keystore.signing_key(home).keyid}
    assert len(list((home / "trusted").iterdir())) == 1
    assert not list(home.glob(".signing_key*")), "no half-made private key is left"


def test_processes_that_replace_a_revoked_key_at_once_get_the_same(home: Path) -> None:
    old = keystore.signing_key(home)
    keystore.revoke(old.keyid, home)
    answers = _together("keystore.signing_key()", home)
    assert set(answers) == {keystore.signing_key(home).keyid}
    assert old.keyid not in answers


def test_looking_makes_nothing(home: Path) -> None:
    assert keystore.existing_key(home) is None
    assert keystore.load_keyring(home).trusted() == ()
    assert not home.exists()


def test_home_is_the_variable_or_the_user_s_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path / "x"))
    assert default_home() == tmp_path / "x"
    monkeypatch.setenv("HWBENCH_HOME", "")
    assert default_home().name == "hwbench"


def test_a_key_whose_record_was_lost_is_trusted_again(home: Path) -> None:
    key = keystore.signing_key(home)
    (home / "trusted" / f"{key.keyid}.json").unlink()
    assert not _checked(key, home).trusted
    assert keystore.signing_key(home).keyid == key.keyid
    assert _checked(key, home).trusted


def test_make_refuses_to_replace_a_key_unless_told(home: Path) -> None:
    first = keystore.make_key(home)
    with pytest.raises(KeyTrouble, match=r"already has a signing key.*--rotate"):
        keystore.make_key(home)
    assert keystore.signing_key(home).keyid == first.keyid


def test_rotating_keeps_trusting_what_the_old_key_signed(home: Path) -> None:
    first = keystore.make_key(home)
    second = keystore.make_key(home, rotate=True)
    assert second.keyid != first.keyid
    assert keystore.signing_key(home).keyid == second.keyid
    assert _checked(first, home).trusted
    assert _checked(second, home).trusted
    assert first.signer.private_bytes not in [path.read_bytes() for path in home.rglob("*") if path.is_file()]


# --- Unsafe and broken keys


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_private_key_others_can_read_is_refused_with_the_command(home: Path, mode: int) -> None:
    keystore.signing_key(home)
    path = home / "signing_key.pem"
    path.chmod(mode)
    with pytest.raises(KeyTrouble, match=r"can be read by others .*chmod 600") as caught:
        keystore.signing_key(home)
    assert "\n" not in str(caught.value)
    path.chmod(0o600)
    keystore.signing_key(home)


def _ec_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\n", _ec_key()])
def test_a_corrupt_private_key_is_refused_and_never_replaced(home: Path, content: bytes) -> None:
    keystore.signing_key(home)
    path = home / "signing_key.pem"
    path.write_bytes(content)
    for use in (keystore.signing_key, keystore.existing_key, lambda h: keystore.make_key(h, rotate=True)):
        with pytest.raises(KeyTrouble, match="not an Ed25519 private key"):
            use(home)
    assert path.read_bytes() == content


def test_a_private_key_of_somebody_else_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keystore.signing_key(home)
    _give_away(home / "signing_key.pem", monkeypatch)
    with pytest.raises(KeyTrouble, match="belongs to user"):
        keystore.signing_key(home)


def test_a_private_key_that_is_no_file_is_refused_without_hanging(home: Path) -> None:
    home.mkdir(mode=0o700)
    os.mkfifo(home / "signing_key.pem", 0o600)
    with pytest.raises(KeyTrouble, match="is not a file"):
        keystore.signing_key(home)


def test_a_dangling_private_key_is_refused(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "signing_key.pem").symlink_to(home / "gone")
    with pytest.raises(KeyTrouble, match="cannot be used"):
        keystore.signing_key(home)


@pytest.mark.parametrize("name", ["", "trusted", "revoked"])
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_directory_others_can_write_to_is_refused(home: Path, name: str, mode: int) -> None:
    keystore.revoke(_stranger().keyid, home)
    keystore.signing_key(home)
    (home / name).chmod(mode)
    for use in (keystore.load_keyring, keystore.signing_key):
        with pytest.raises(KeyTrouble, match=r"Others can write .*chmod 700"):
            use(home)


def test_a_directory_of_somebody_else_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keystore.signing_key(home)
    _give_away(home, monkeypatch)
    with pytest.raises(KeyTrouble, match="belongs to user"):
        keystore.load_keyring(home)


def test_a_link_by_somebody_else_is_refused_and_one_s_own_is_followed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keystore.signing_key(home)
    link = tmp_path / "link"
    link.symlink_to(home)
    assert keystore.signing_key(link).keyid == key.keyid
    _give_away(link, monkeypatch)
    with pytest.raises(KeyTrouble, match="symbolic link made by user"):
        keystore.load_keyring(link)


def test_what_cannot_be_looked_at_is_not_taken_for_absent(home: Path) -> None:
    home.write_text("a file where the directory should be")
    for use in (keystore.load_keyring, keystore.existing_key, keystore.signing_key):
        with pytest.raises(KeyTrouble, match="cannot be used"):
            use(home)


# --- Trusting and revoking


def test_a_trusted_stranger_is_trusted_under_the_given_name(home: Path) -> None:
    signer = CryptoSigner.generate_ed25519()
    key = SigningKey(_public(signer), signer)
    assert _checked(key, home).state == "untrusted"
    kept = keystore.trust(parse_public_key(key.public.pem.encode(), name="the lab"), home)
    assert kept.added_at is not None
    found = _checked(key, home)
    assert (found.state, found.key_name) == ("trusted", "the lab")


def test_a_pem_put_into_the_directory_is_trusted_under_its_file_name(home: Path) -> None:
    keystore.signing_key(home)
    stranger = _stranger()
    (home / "trusted" / "lab.pem").write_text(stranger.pem)
    assert keystore.load_keyring(home).keys[stranger.keyid].name == "lab"


@pytest.mark.parametrize(("name", "content"), [("x.json", "{}"), ("x.pem", "garbage"), ("x.txt", "?"), ("noname", "")])
def test_a_trusted_file_that_is_no_key_stops_the_ring(home: Path, name: str, content: str) -> None:
    keystore.signing_key(home)
    (home / "trusted" / name).write_text(content)
    with pytest.raises(KeyTrouble, match="is not a trusted key"):
        keystore.load_keyring(home)


@pytest.mark.parametrize(
    "change",
    [None, {"keyid": "lab"}, {"revoked_at": None}, {"schema_version": 2}, {"more": 1}, {"reason": ""}],
    ids=str,
)
def test_a_revocation_that_cannot_be_read_stops_the_ring(home: Path, change: dict[str, object] | None) -> None:
    revocation = keystore.revoke(keystore.signing_key(home).keyid, home)
    path = home / "revoked" / f"{revocation.keyid}.json"
    path.write_text("" if change is None else json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(KeyTrouble, match="is not a revocation"):
        keystore.load_keyring(home)


def test_revoking_ends_trust_in_everything_the_key_signed(home: Path) -> None:
    key = keystore.signing_key(home)
    envelope = sign(STATEMENT, key)
    assert check(envelope, keystore.load_keyring(home)).trusted
    revocation = keystore.revoke(key.keyid[:8], home, reason="the disk was copied")
    found = check(envelope, keystore.load_keyring(home))
    assert found.state == "revoked"
    assert "the disk was copied" in found.reason
    assert keystore.load_keyring(home).trusted() == ()
    assert keystore.revoke(key.keyid, home, reason="again") == revocation


def test_after_its_own_key_was_revoked_the_machine_signs_with_another(home: Path) -> None:
    old = keystore.signing_key(home)
    keystore.revoke(old.keyid, home)
    new = keystore.signing_key(home)
    assert new.keyid != old.keyid
    assert _checked(new, home).trusted
    assert _checked(old, home).state == "revoked"


def test_make_needs_no_rotate_when_the_key_is_revoked(home: Path) -> None:
    old = keystore.make_key(home)
    keystore.revoke(old.keyid, home)
    assert keystore.make_key(home).keyid != old.keyid


def test_a_revoked_key_cannot_be_trusted_again(home: Path) -> None:
    stranger = _stranger()
    keystore.revoke(stranger.keyid, home)
    with pytest.raises(KeyTrouble, match="was revoked here"):
        keystore.trust(stranger, home)


@pytest.mark.parametrize("keyid", ["", "abc", "ABCDEF0123", "0" * 65, "../../x", "00000000"])
def test_revoking_no_key_is_an_error(home: Path, keyid: str) -> None:
    keystore.signing_key(home)
    with pytest.raises(UsageError, match=r"not a key id|no key here"):
        keystore.revoke(keyid, home)
    assert not (home / "revoked").exists()
