"""``hwbench fleet``: make this machine a node of a fleet, and see who is in it. Wiring only."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

import click

from hwbench_mlflow.model import Platform

if TYPE_CHECKING:
    from hwbench_mlflow.attest import Keyring
    from hwbench_mlflow.fleet.placing import Node
    from hwbench_mlflow.offers import Joined

SCHEMA_VERSION = 1
STARTED = "Ray runtime started"
NONE = "none"


@click.group()
def fleet() -> None:
    """Many machines that measure for one batch, on a Ray cluster.

    \b
    hwbench fleet join lab-1:6379 --head      # on the first machine; it stays until it is ended
    hwbench fleet join lab-1:6379             # on each other one
    hwbench fleet status lab-1:6379
    hwbench batch --models bert,vit --hardware cpu,cuda --fleet lab-1:6379
    """


@fleet.command()
@click.argument("address")
@click.option("--head", is_flag=True, help="Start the fleet here: ADDRESS is this machine's own.")
@click.option("--name", help="What the node is called; the machine's name if not given.")
@click.option(
    "--hardware", metavar="PLATFORMS",
    help="Probe and offer only these, separated by commas; `none` offers nothing, to run batches from here.",
)  # fmt: skip
@click.option("--emulated", is_flag=True, help="Offer what software emulates too: its results are simulated.")
@click.option("--ip", help="This machine's address towards the others, where Ray finds the wrong one.")
@click.option("--backend", hidden=True, help="Another backend, for the one platform that is named.")
def join(  # noqa: PLR0917  # click passes options by keyword
    address: str, head: bool, name: str | None, hardware: str | None, emulated: bool, ip: str | None,
    backend: str | None,
) -> None:  # fmt: skip
    """Make this machine a node of the fleet at ADDRESS (HOST:PORT), until this command is ended.

    Every platform is probed as by `hwbench devices`, and each device on which an operation was checked is offered, one
    benchmark at a time. What is not there, or failed its check, is not offered. Whoever reaches a fleet's ports runs
    code on its nodes: Ray's token (`ray get-auth-token --generate`) keeps others out, and without one nothing starts.
    """
    from hwbench_mlflow.fleet.joining import join_command, parse_address
    from hwbench_mlflow.keystore import signing_key

    parse_address(address)
    joined = _probed(_platforms(hardware), name, backend, emulated=emulated)
    signing_key()  # what this node measures is signed with its own key: made now, not in the middle of a batch
    command, environ = join_command(address, joined, head=head, ip=ip)
    sys.exit(_stay(command, environ, f"joined {address} as {joined.name}: {_offers(joined)}"))


def _platforms(hardware: str | None) -> list[Platform]:
    if hardware is None:
        return list(Platform)
    if hardware == NONE:
        return []
    known = {platform.value: platform for platform in Platform}
    names = [word.strip() for word in hardware.split(",")]
    for word in names:
        if word not in known:
            raise click.UsageError(f"{word!r} is no platform. Allowed: {', '.join(known)}, {NONE}")
    return [known[word] for word in dict.fromkeys(names)]


def _probed(platforms: Sequence[Platform], name: str | None, backend: str | None, *, emulated: bool) -> Joined:
    import platform as system

    from hwbench_mlflow import __version__
    from hwbench_mlflow.backends.lookup import targets
    from hwbench_mlflow.errors import UsageError
    from hwbench_mlflow.host import host_id
    from hwbench_mlflow.offers import offered, this_node
    from hwbench_mlflow.probing import probe_isolated

    known = targets()
    backends = {platform: known[platform.value] for platform in platforms}
    if backend is not None:
        if len(platforms) != 1:
            raise UsageError("--backend stands for one platform", remedy="Name it with --hardware")
        backends = {platforms[0]: known.get(backend, backend)}
    devices = offered(probe_isolated(platforms, backends=backends), backends, emulated=emulated)
    return this_node(name or system.node() or "unnamed", __version__, host_id(), devices)


def _offers(joined: Joined) -> str:
    return ", ".join(f"{d.platform} ({d.device_name})" for d in joined.devices) or "nothing"


def _stay(command: Sequence[str], environ: dict[str, str], joined: str) -> int:
    """Run Ray's command until it ends, or until we are told to end; 0 if we were told, and it had begun."""
    node = subprocess.Popen(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    told = False

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal told
        del number, frame
        told = True
        node.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    begun, last = False, ""
    assert node.stdout is not None
    for line in node.stdout:
        last = line.strip() or last
        if STARTED in line and not begun:
            begun = True
            click.echo(f"hwbench: {joined}", err=True)
    code = node.wait()
    if told and begun:
        return 0
    said = " ".join(last.split())[-300:]
    click.echo(f"hwbench: the node {'ended' if begun else 'could not start'} (exit code {code}): {said}", err=True)
    return 1


@fleet.command()
@click.argument("address")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def status(address: str, as_json: bool) -> None:
    """The nodes of the fleet at ADDRESS: their verified devices, what they measure now, and whether their key counts.

    Asked from a machine that is a node itself.
    """
    from hwbench_mlflow.cli.fleet_batch import enter
    from hwbench_mlflow.codec import encode
    from hwbench_mlflow.keystore import load_keyring

    with enter(address, None, None) as entered:
        nodes = entered.nodes()
    for line in entered.silent:
        click.echo(f"hwbench: warning: {line}", err=True)
    keyring = load_keyring()
    rows = [_row(node, keyring) for node in nodes]
    if as_json:
        click.echo(encode({"schema_version": SCHEMA_VERSION, "address": address, "nodes": rows}).decode())
        return
    _print_table(rows)


def _row(node: Node, keyring: Keyring) -> dict[str, object]:
    from hwbench_mlflow.cli.fleet_cell import Greeting
    from hwbench_mlflow.codec import decode

    greeting = decode(node.greeting, Greeting)
    if greeting.keyid in keyring.revoked:
        key = "revoked"
    else:
        key = "trusted" if greeting.keyid in keyring.keys else "not trusted"
    return {
        "name": node.joined.name,
        "address": node.address,
        "host_id": greeting.host_id,
        "hwbench_version": greeting.version,
        "devices": [
            {"platform": d.platform, "id": d.device_id, "name": d.device_name, "shares": d.lock}
            for d in node.joined.devices
        ],
        "running": list(greeting.running),
        "key_id": greeting.keyid,
        "key": key,
        "trouble": greeting.trouble,
    }


def _print_table(rows: Sequence[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("NODE", "KEY", "MEASURES", "VERIFIED DEVICES"):
        table.add_column(heading, no_wrap=heading != "VERIFIED DEVICES", overflow="fold")
    for row in rows:
        devices = row["devices"]
        running = row["running"]
        assert isinstance(devices, list)
        assert isinstance(running, list)
        offers = "\n".join(f"{d['platform']}: {d['name']}" for d in devices) or "none"
        now = "\n".join(running) or "nothing"
        cells = (str(row["name"]), f"{str(row['key_id'])[:16]} {row['key']}", str(row["trouble"] or now), offers)
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)


@fleet.command()
@click.argument("node")
@click.argument("address")
def key(node: str, address: str) -> None:
    """The public key that NODE of the fleet at ADDRESS signs with, for `hwbench keys trust`.

    As true as the fleet is: compare its first digits with `hwbench keys show` on that machine.
    """
    from hwbench_mlflow.cli.fleet_batch import enter, the_node
    from hwbench_mlflow.cli.fleet_cell import Greeting
    from hwbench_mlflow.codec import decode
    from hwbench_mlflow.errors import FleetError

    with enter(address, None, None) as entered:
        found = decode(the_node(entered.nodes(), node).greeting, Greeting)
    if found.trouble is not None:
        raise FleetError(f"node {node} has no key: {found.trouble}")
    click.echo(found.key)
