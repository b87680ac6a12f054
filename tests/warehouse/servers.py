"""Real servers on loopback for the warehouse's tests: a PostgreSQL cluster, a MariaDB and `mlflow server`."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REQUIRED

PASSWORD = "p@ss:w0rd"
QUOTED = "p%40ss%3Aw0rd"


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


def postgres_binaries() -> Path | None:
    """The folder of initdb and postgres: on the PATH, or where Debian puts them."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


def _as_postgres() -> Callable[[], None] | None:
    """PostgreSQL refuses to run as root; then its own user runs it."""
    if os.geteuid() != 0:
        return None
    user = pwd.getpwnam("postgres")

    def become() -> None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)

    return become


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL server; ``hw`` is its superuser."""

    port: int

    def uri(self, database: str, *, user: str = "hw", password: str = QUOTED) -> str:
        return f"postgresql+psycopg2://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def execute(self, database: str, *statements: str) -> None:
        from adbc_driver_postgresql import dbapi

        uri = self.uri(database).replace("+psycopg2", "")
        with dbapi.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A throw-away cluster of the test session's own."""
    binaries = postgres_binaries()
    if binaries is None:
        reason = "PostgreSQL's server is not installed (Debian: apt-get install postgresql)"
        if "postgresql" in REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    become = _as_postgres()
    folder = Path(
        subprocess.check_output(["mktemp", "-d", "/tmp/hwbench-pg-XXXXXX"], text=True, preexec_fn=become).strip()
    )
    try:
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        subprocess.run(
            [binaries / "initdb", "-D", folder / "data", "-U", "hw", "-E", "UTF8", "--auth=scram-sha-256",
             f"--pwfile={folder / 'password'}", "--no-sync"],
            check=True, capture_output=True, preexec_fn=become, cwd=folder,
        )  # fmt: skip
        port = free_port()
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-h", "127.0.0.1",
                 "-c", "fsync=off", "-c", "autovacuum=off"],
                stdout=log, stderr=log, preexec_fn=become, cwd=folder,
            )  # fmt: skip
            try:
                _wait(lambda: _ready(folder), server, folder / "log")
                yield Cluster(port)
            finally:
                server.send_signal(signal.SIGINT)  # fast: SIGTERM would wait for clients to leave
                server.wait(30)
    finally:
        shutil.rmtree(folder)


def _ready(folder: Path) -> bool:
    """The eighth line of the server's pid file says "ready" when it takes connections."""
    try:
        return (folder / "data" / "postmaster.pid").read_text().splitlines()[7].strip() == "ready"
    except (FileNotFoundError, IndexError):
        return False


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, limit_s: float = 90) -> None:
    deadline = time.monotonic() + limit_s
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)


@dataclass(frozen=True)
class Maria:
    """A MariaDB server; ``hw`` may do everything."""

    port: int

    def uri(self, database: str, *, user: str = "hw", password: str = QUOTED) -> str:
        return f"mysql+pymysql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str) -> None:
        import pymysql

        with pymysql.connect(host="127.0.0.1", port=self.port, user="hw", password=PASSWORD, autocommit=True) as made:
            for statement in statements:
                made.cursor().execute(statement)


@pytest.fixture(scope="session")
def maria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maria]:
    """A throw-away server of the test session's own."""
    binary = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        reason = "MariaDB's server is not installed (Debian: apt-get install mariadb-server-core mariadb-client-core)"
        if "mysql" in REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    user = ["--user=root"] if os.geteuid() == 0 else []
    # A socket's path may have 107 characters, and pytest's folders are deep.
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/hwbench-my-XXXXXX"], text=True).strip())
    port, data = free_port(), folder / "data"
    try:
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db",
             "--auth-root-authentication-method=normal", *user],
            check=True, capture_output=True, cwd=folder,
        )  # fmt: skip
        (folder / "init.sql").write_text(
            f"CREATE USER 'hw'@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO 'hw'@'%' WITH GRANT OPTION;\n"
        )
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [binary, "--no-defaults", f"--datadir={data}", f"--socket={folder}/s", f"--port={port}",
                 "--bind-address=127.0.0.1", "--skip-name-resolve", f"--init-file={folder}/init.sql",
                 "--innodb-flush-log-at-trx-commit=0", f"--pid-file={folder}/pid", *user],
                stdout=log, stderr=log, cwd=folder,
            )  # fmt: skip
            try:
                _wait(lambda: b"ready for connections" in (folder / "log").read_bytes(), server, folder / "log")
                yield Maria(port)
            finally:
                server.terminate()
                server.wait(30)
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Tracking:
    """An `mlflow server` on the SQLite file ``store``."""

    url: str
    store: Path


@contextmanager
def serve(folder: Path, store: Path, *flags: str, **environ: str) -> Iterator[Tracking]:
    """A server with one worker on loopback, until the block ends."""
    port = free_port()
    url, log_path = f"http://127.0.0.1:{port}", folder / "server.log"
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{store}", "--artifacts-destination", str(folder / "artifacts"), *flags],
            stdout=log, stderr=log, cwd=folder, start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environ},
        )  # fmt: skip
        try:
            _wait(lambda: _healthy(url), server, log_path)
            yield Tracking(url, store)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Tracking]:
    """A server without a login."""
    folder = tmp_path_factory.mktemp("tracking")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    with serve(folder, folder / "mlflow.db") as server:
        yield server


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Tracking]:
    """A server with MLflow's basic-auth app, on which nobody but ``admin`` may read what was not granted."""
    folder = tmp_path_factory.mktemp("guarded")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    settings = folder / "auth.ini"
    settings.write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = admin\nadmin_password = {PASSWORD}-admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environ = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests only"}
    with serve(folder, folder / "mlflow.db", "--app-name", "basic-auth", **environ) as server:
        yield server
