"""``hwbench keys``: this machine's signing key and the keys it trusts. Wiring of :mod:`.keystore`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hwbench_mlflow.attest import Keyring, SigningKey

SCHEMA_VERSION = 1
"""Version of ``hwbench keys show --json``. History: 1 = the first."""

_LIMITS = """A signature proves who signed and that nothing changed since; it does not prove that the numbers
are true. A revoked key is not trusted for anything it ever signed."""


@click.group(invoke_without_command=True, epilog=_LIMITS)
@click.option("--json", "as_json", is_flag=True, help="One JSON object (without a subcommand: show).")
@click.pass_context
def keys(ctx: click.Context, as_json: bool) -> None:
    """Show, make, export, trust and revoke signing keys. Without a subcommand: show.

    The signing key is made by itself when it is first needed.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(show, as_json=as_json)
    elif as_json:
        raise click.UsageError("give --json after the subcommand")


@keys.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with a schema_version.")
def show(as_json: bool) -> None:
    """List this machine's key, the trusted ones and the revoked ones. Makes nothing.

    Example: hwbench keys show --json
    """
    from hwbench_mlflow import keystore
    from hwbench_mlflow.home import default_home

    home = default_home()
    own, ring = keystore.existing_key(home), keystore.load_keyring(home)
    click.echo(json.dumps(_listing(home, own, ring), sort_keys=True) if as_json else _table(home, own, ring))


def _listing(home: Path, own: SigningKey | None, ring: Keyring) -> dict[str, object]:
    return {
        "schema_version": SCHEMA_VERSION,
        "home": str(home),
        "signing_key": None
        if own is None
        else {
            "keyid": own.keyid,
            "name": own.public.name,
            "host": own.public.host,
            "revoked": own.keyid in ring.revoked,
        },
        "trusted": [
            {"keyid": key.keyid, "name": key.name, "host": key.host, "added_at": key.added_at} for key in ring.trusted()
        ],
        "revoked": [
            {
                "keyid": gone.keyid,
                "name": ring.keys[gone.keyid].name if gone.keyid in ring.keys else None,
                "revoked_at": gone.revoked_at,
                "reason": gone.reason,
            }
            for gone in sorted(ring.revoked.values(), key=lambda gone: gone.revoked_at)
        ],
    }


def _table(home: Path, own: SigningKey | None, ring: Keyring) -> str:
    lines = [f"Keys in {home}"]
    if own is None:
        lines.append("This machine has no signing key yet: it is made when one is first needed.")
    elif own.keyid in ring.revoked:
        lines.append("This machine's signing key is revoked: another is made when one is next needed.")
    for key in ring.trusted():
        mark = "  (signs here)" if own is not None and key.keyid == own.keyid else ""
        lines.append(f"trusted  {key.keyid}  {key.name}  {key.added_at or 'date unknown'}{mark}")
    for gone in sorted(ring.revoked.values(), key=lambda gone: gone.revoked_at):
        name = ring.keys[gone.keyid].name if gone.keyid in ring.keys else "unknown key"
        lines.append(f"revoked  {gone.keyid}  {name}  {gone.revoked_at}  {gone.reason or 'no reason given'}")
    return "\n".join(lines)


@keys.command()
@click.option("--rotate", is_flag=True, help="Replace the key; what the old one signed stays trusted.")
def make(rotate: bool) -> None:
    """Make this machine's signing key now, and print its key id.

    Example: hwbench keys make --rotate
    """
    from hwbench_mlflow import keystore

    key = keystore.make_key(rotate=rotate)
    click.echo(f"Made the signing key of {key.public.name}; it is trusted here.", err=True)
    click.echo(key.keyid)


@keys.command()
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of stdout.")
@click.option("--json", "as_json", is_flag=True, help="The key with its name, on one line, instead of PEM.")
def export(output: Path | None, as_json: bool) -> None:
    """Write this machine's public key, for others to trust. Makes the key if there is none.

    Example: hwbench keys export -o lab.pem
    """
    from hwbench_mlflow import keystore
    from hwbench_mlflow.errors import UsageError

    key = keystore.signing_key().public
    text = key.to_json() + "\n" if as_json else key.pem
    if output is None:
        click.echo(text, nl=False)
    else:
        try:
            output.write_text(text, encoding="ascii")
        except OSError as error:
            raise UsageError(f"Cannot write {output}: {error.strerror}") from error
    click.echo(f"Key id: {key.keyid}", err=True)


@keys.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--name", help="What to call its holder here. Default: the name it was exported with, or the file's.")
@click.option("--keyid", help="Refuse any key but this one: what its holder told you.")
def trust(file: str, name: str | None, keyid: str | None) -> None:
    """Trust the public key in FILE (- for standard input) from now on, and print its key id.

    Compare the key id with what its holder says, or give it with --keyid.

    Example: hwbench keys trust lab.pem --name "the lab's H100"
    """
    from hwbench_mlflow import keystore
    from hwbench_mlflow.attest import MAX_KEY_BYTES, parse_public_key
    from hwbench_mlflow.errors import Refused

    with click.open_file(file, "rb") as source:
        data = source.read(MAX_KEY_BYTES + 1)
    key = parse_public_key(data, name=name or ("unnamed" if file == "-" else Path(file).stem))
    if name is not None:
        key = key.renamed(name)
    click.echo(f"Key id: {key.keyid}  ({key.name})", err=True)
    if keyid is not None and keyid != key.keyid:
        raise Refused(f"This is key {key.keyid}, not {keyid}", remedy="Nothing was trusted; ask its holder again")
    keystore.trust(key)
    click.echo(key.keyid)


@keys.command()
@click.argument("keyid")
@click.option("--reason", help="Why; it is shown wherever the key's signatures are refused.")
def revoke(keyid: str, reason: str | None) -> None:
    """Stop trusting a key, for all it ever signed, for good. KEYID: 8 digits or more.

    Example: hwbench keys revoke 3f2a90c1 --reason "the laptop was stolen"
    """
    from hwbench_mlflow import keystore

    revocation = keystore.revoke(keyid, reason=reason)
    why = revocation.reason or "no reason given"
    click.echo(f"Revoked on {revocation.revoked_at} ({why}): nothing it signed is trusted here.", err=True)
    click.echo(revocation.keyid)
