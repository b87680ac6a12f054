"""How a machine becomes a node: Ray's command, its environment, and that nobody joins without showing who they are."""

from __future__ import annotations

import os
import sys

from hwbench_mlflow.codec import encode
from hwbench_mlflow.errors import FleetError
from hwbench_mlflow.offers import OFFER_VARIABLE, Joined, resources

RAY_SETTINGS = {
    "RAY_usage_stats_enabled": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or a task without Ray's own GPUs sees none
    "RAY_memory_monitor_refresh_ms": "0",  # memory is refused before a model is loaded, not by killing a measurement
}
OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""About the least that Ray takes: what travels is a result, some 100 KB."""


def join_command(address: str, joined: Joined, *, head: bool, ip: str | None) -> tuple[list[str], dict[str, str]]:
    """Ray's command that makes this machine a node until it is ended, and its environment.

    Raises FleetError where ray is not installed, or nobody would have to show who they are.
    """
    require_ray()
    host, port = parse_address(address)
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
        "--object-store-memory", str(OBJECT_STORE_BYTES), "--num-cpus", str(max(1, len(resources(joined.devices)))),
        "--num-gpus", "0", "--resources", encode(resources(joined.devices)).decode(),
    ]  # fmt: skip
    command += ["--head", "--port", str(port), "--include-dashboard", "false"] if head else ["--address", address]
    if ip is not None or head:
        command += ["--node-ip-address", ip or host]
    environ = {**os.environ, **RAY_SETTINGS, OFFER_VARIABLE: encode(joined).decode()}
    environ["RAY_AUTH_MODE"] = auth_mode()
    return command, environ


def auth_mode() -> str:
    """``token``, or what the user has set. Raises FleetError where there is neither: it is never off by default."""
    asked = os.environ.get("RAY_AUTH_MODE")
    if asked is not None:
        return asked
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled

    if not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        raise FleetError(
            "whoever reaches a fleet's ports runs code on its nodes, and this machine has no token for it",
            remedy="Once: ray get-auth-token --generate; then copy ~/.ray/auth_token to every node",
        )
    return "token"


def parse_address(address: str) -> tuple[str, int]:
    """``HOST:PORT``. Raises FleetError."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise FleetError(f"{address!r} is no address of a fleet", remedy="Write HOST:PORT, as lab-1:6379")
    return host, int(port)


def require_ray() -> None:
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise FleetError("ray is not installed here", remedy="pip install 'hwbench-mlflow[fleet]'") from error
