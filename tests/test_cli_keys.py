from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hwbench_mlflow import keystore
from hwbench_mlflow.cli.keys import keys
from hwbench_mlflow.errors import ExitCode, HwbenchError, KeyTrouble, Refused, UsageError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path / "keys"))
    return tmp_path / "keys"


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Another machine's key directory."""
    keystore.signing_key(tmp_path / "lab")
    return tmp_path / "lab"


def _run(*args: str, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(keys, args, input=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def _refused(kind: type[HwbenchError], *args: str, stdin: bytes | None = None) -> str:
    """The one line that the command's caller prints."""
    result = CliRunner().invoke(keys, args, input=stdin)
    assert type(result.exception) is kind, result.exception
    assert result.stdout == ""
    line = str(result.exception)
    assert "\n" not in line
    return line


def _shown() -> dict[str, object]:
    listing = json.loads(_run("show", "--json").stdout)
    assert isinstance(listing, dict)
    return listing


def test_without_a_subcommand_it_shows_and_makes_nothing(home: Path) -> None:
    assert "no signing key yet" in _run().stdout
    assert _run().stdout == _run("show").stdout
    assert json.loads(_run("--json").stdout) == {
        "schema_version": 1,
        "home": str(home),
        "signing_key": None,
        "trusted": [],
        "revoked": [],
    }
    assert not home.exists()


def test_make_prints_the_key_id_and_show_lists_it(home: Path) -> None:
    made = _run("make")
    keyid = made.stdout.strip()
    assert "trusted here" in made.stderr
    assert f"trusted  {keyid}" in _run().stdout
    assert "(signs here)" in _run().stdout
    listing = _shown()
    assert isinstance(listing["signing_key"], dict)
    assert isinstance(listing["trusted"], list)
    assert listing["signing_key"]["keyid"] == keyid
    assert listing["signing_key"]["revoked"] is False
    assert [key["keyid"] for key in listing["trusted"]] == [keyid]


def test_make_refuses_a_second_key_and_rotates_when_told(home: Path) -> None:
    first = _run("make").stdout.strip()
    assert "--rotate" in _refused(KeyTrouble, "make")
    second = _run("make", "--rotate").stdout.strip()
    listing = _shown()
    assert isinstance(listing["trusted"], list)
    assert {key["keyid"] for key in listing["trusted"]} == {first, second}


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_one_machine_exports_another_trusts(
    home: Path, lab: Path, tmp_path: Path, form: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lab-key.pem"
    monkeypatch.setenv("HWBENCH_HOME", str(lab))
    to_file, to_stdout = _run("export", *form, "-o", str(file)), _run("export", *form)
    assert to_file.stdout == ""
    assert file.read_text() == to_stdout.stdout
    assert "PRIVATE" not in to_stdout.stdout
    keyid = keystore.signing_key(lab).keyid
    assert keyid in to_stdout.stderr

    monkeypatch.setenv("HWBENCH_HOME", str(home))
    trusted = _run("trust", str(file), "--name", "the lab")
    assert trusted.stdout.strip() == keyid
    assert f"Key id: {keyid}  (the lab)" in trusted.stderr
    assert keystore.load_keyring(home).keys[keyid].name == "the lab"


def test_a_key_is_trusted_from_standard_input(home: Path, lab: Path) -> None:
    key = keystore.signing_key(lab)
    assert _run("trust", "-", stdin=key.public.to_json().encode()).stdout.strip() == key.keyid
    assert keystore.load_keyring(home).keys[key.keyid].name == key.public.name


def test_a_key_without_a_name_is_called_as_its_file(home: Path, lab: Path, tmp_path: Path) -> None:
    key = keystore.signing_key(lab)
    (tmp_path / "h100.pem").write_text(key.public.pem)
    _run("trust", str(tmp_path / "h100.pem"))
    assert keystore.load_keyring(home).keys[key.keyid].name == "h100"


def test_trust_refuses_another_key_than_the_one_told(home: Path, lab: Path) -> None:
    pem = keystore.signing_key(lab).public.pem.encode()
    line = _refused(Refused, "trust", "-", "--keyid", "0" * 64, stdin=pem)
    assert "Nothing was trusted" in line
    assert not home.exists()
    keyid = keystore.signing_key(lab).keyid
    assert _run("trust", "-", "--keyid", keyid, stdin=pem).stdout.strip() == keyid


def test_trust_refuses_a_private_key_and_garbage(home: Path, lab: Path) -> None:
    private = (lab / "signing_key.pem").read_bytes()
    assert "private key" in _refused(UsageError, "trust", "-", stdin=private)
    assert "not a public key" in _refused(UsageError, "trust", "-", stdin=b"hello")
    assert "printable" in _refused(
        UsageError, "trust", "-", "--name", "a\nb", stdin=keystore.signing_key(lab).public.pem.encode()
    )
    assert not home.exists()


def test_revoke_takes_a_short_id_and_show_says_why(home: Path) -> None:
    keyid = _run("make").stdout.strip()
    revoked = _run("revoke", keyid[:8], "--reason", "stolen")
    assert revoked.stdout.strip() == keyid
    assert "stolen" in revoked.stderr
    text = _run().stdout
    assert f"revoked  {keyid}" in text
    assert f"trusted  {keyid}" not in text
    assert "another is made" in text
    listing = _shown()
    assert isinstance(listing["revoked"], list)
    assert listing["trusted"] == []
    assert [(gone["keyid"], gone["reason"]) for gone in listing["revoked"]] == [(keyid, "stolen")]


def test_revoking_a_key_that_is_not_there_is_a_usage_error(home: Path) -> None:
    assert "hwbench keys show" in _refused(UsageError, "revoke", "0123abcd")
    assert UsageError.exit_code is ExitCode.USAGE


def test_export_to_a_place_that_is_not_there_is_one_line(home: Path, tmp_path: Path) -> None:
    assert "Cannot write" in _refused(UsageError, "export", "-o", str(tmp_path / "no" / "x.pem"))


def test_json_before_another_subcommand_is_refused(home: Path) -> None:
    result = CliRunner().invoke(keys, ["--json", "make"])
    assert result.exit_code == ExitCode.USAGE
    assert not home.exists()


def test_an_unsafe_key_is_reported_by_show(home: Path) -> None:
    _run("make")
    (home / "signing_key.pem").chmod(0o644)
    assert "chmod 600" in _refused(KeyTrouble, "show")
