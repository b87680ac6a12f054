"""The last probe of each platform, kept as signed evidence; and MLflow's plugin that tags runs with it.

Owns ``probes/*.json`` under the hwbench home and :class:`RunTags`, which MLflow loads in every process that logs. So
this module imports nothing but the standard library until tags are asked for, and MLflow not at all: its plugins are
known by their methods. Nothing is probed here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from hwbench_mlflow.attest import Keyring
    from hwbench_mlflow.model import Availability, Platform

SWITCH = "HWBENCH_TAG_RUNS"
"""Set to ``1``, it lets :class:`RunTags` work; any other value, and none, is off."""
TAG = "hwbench.hardware."
FOLDER = "probes"
PROBE_FILE = "probe.json"
PROBE_PREDICATE = "urn:hwbench:probe:v1"
"""Predicate: ``platform``, ``probe_id``. The subject is the probe's answer in canonical JSON."""
MAX_BYTES = 1 << 20
MAX_NAME_CHARACTERS = 200


class RunTags:
    """An MLflow run context provider: ``hwbench.hardware.PLATFORM`` = device and time of its verification.

    A tag is given only for a platform whose last probe is signed by a key that is trusted here, is of this boot, and
    executed an operation on a device that is no emulation. For anything else there is none. Never raises for what it
    finds on the disk, and never prints: these are other people's processes.
    """

    def in_context(self) -> bool:
        """Whether it was asked for."""
        return os.environ.get(SWITCH) == "1"

    def tags(self) -> dict[str, str]:
        """A tag a platform of which something is known."""
        from hwbench_mlflow.errors import HwbenchError
        from hwbench_mlflow.keystore import load_keyring
        from hwbench_mlflow.model import Platform

        try:
            keyring = load_keyring()
        except (HwbenchError, RuntimeError):  # RuntimeError: HWBENCH_HOME is "~" of nobody
            return {}
        found = {}
        for platform in Platform:
            try:
                kept = recall(platform, keyring)
            except HwbenchError:
                continue  # `hwbench doctor` says what is wrong with it
            if kept is not None and (words := hardware_words(kept)) is not None:
                found[f"{TAG}{platform}"] = words
        return found


def keep(answers: Sequence[Availability], home: Path | None = None) -> None:
    """Keep each platform's answer in place of its last one, signed by this machine's key.

    An answer without hardware is kept too: what was there before is not to be claimed any more. Raises
    :class:`KeyTrouble` and :class:`StoreError`.
    """
    import tempfile
    from pathlib import Path

    from hwbench_mlflow.attest import make_statement, sign
    from hwbench_mlflow.codec import encode, sha256
    from hwbench_mlflow.errors import StoreError
    from hwbench_mlflow.home import default_home
    from hwbench_mlflow.keystore import signing_key

    home = home or default_home()
    key = signing_key(home)
    folder = home / FOLDER
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for answer in answers:
            probe = encode(answer)
            predicate = {"platform": str(answer.platform), "probe_id": answer.probe_id}
            envelope = sign(make_statement({PROBE_FILE: sha256(probe)}, PROBE_PREDICATE, predicate), key)
            document = {"attestation": envelope.decode(), "probe": probe.decode()}
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as stream:
                try:
                    stream.write(encode(document))
                    stream.flush()
                    os.fsync(stream.fileno())
                except OSError:
                    os.unlink(stream.name)
                    raise
            Path(stream.name).replace(folder / f"{answer.platform}.json")
    except OSError as error:
        raise StoreError(f"cannot keep the probe in {folder}: {error.strerror or error}") from error


def recall(
    platform: Platform, keyring: Keyring, home: Path | None = None, *, now: datetime | None = None
) -> Availability | None:
    """What the last probe of ``platform`` found, believed for what is signed only; None if none was kept.

    Raises :class:`CorruptEvidence`, with why, for one that was edited, is of another boot, platform or key, or from
    the future; :class:`StoreError` for one that cannot be read.
    """
    from hwbench_mlflow.errors import StoreError
    from hwbench_mlflow.home import default_home

    path = (home or default_home()) / FOLDER / f"{platform}.json"
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    return _believed(data, platform, keyring, now)


def _believed(data: bytes, platform: Platform, keyring: Keyring, now: datetime | None) -> Availability:
    from datetime import UTC, datetime

    from hwbench_mlflow import host
    from hwbench_mlflow.attest import SignatureState, check
    from hwbench_mlflow.codec import decode, sha256
    from hwbench_mlflow.errors import CorruptEvidence
    from hwbench_mlflow.model import Availability

    if len(data) > MAX_BYTES:
        raise CorruptEvidence("it is larger than any probe that hwbench keeps")
    document = decode(data, dict[str, str])
    if document.keys() != {"attestation", "probe"}:
        raise CorruptEvidence("it is not a probe that hwbench kept")
    probe = document["probe"].encode()
    signed = check(document["attestation"].encode(), keyring)
    if signed.state is not SignatureState.TRUSTED or signed.statement is None:
        raise CorruptEvidence(signed.reason)
    if signed.statement.predicate_type != PROBE_PREDICATE:
        raise CorruptEvidence("what was signed is not a probe")
    if dict(signed.statement.subjects) != {PROBE_FILE: sha256(probe)}:
        raise CorruptEvidence("it was edited: what was signed is another probe")
    found = decode(probe, Availability)
    if found.platform is not platform:
        raise CorruptEvidence(f"it is of {found.platform}")
    boot = host.boot_id()
    if boot is None or found.boot_id != boot:
        raise CorruptEvidence("it is from before a reboot, or of another machine")
    try:
        late = datetime.fromisoformat(found.started_at) > (now or datetime.now(UTC))
    except (ValueError, TypeError) as error:
        raise CorruptEvidence(f"its time cannot be read: {found.started_at[:40]!r}") from error
    if late:
        raise CorruptEvidence(f"its time, {found.started_at}, has not come yet")
    return found


def hardware_words(found: Availability) -> str | None:
    """The devices that computed in that probe, and when; None if none did. Emulations do not count."""
    from collections import Counter

    if found.status != "AVAILABLE":
        return None
    names = Counter(
        " ".join(device.name.split())[:MAX_NAME_CHARACTERS]
        for device in found.devices
        if device.emulation_reason is None and found.verified_device(device.id) is not None
    )
    if not names:
        return None
    devices = ", ".join(name if count == 1 else f"{count} x {name}" for name, count in names.items())
    return f"{devices}; verified {found.started_at}"
