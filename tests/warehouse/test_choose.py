"""Which reader a URI gets, and what is said of one that gets none."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwbench_mlflow.errors import StoreError, UsageError
from hwbench_mlflow.warehouse.readers.choose import Via, open_reader, shown
from hwbench_mlflow.warehouse.readers.http import Server


def test_the_scheme_chooses_the_reader(store: Path) -> None:
    assert open_reader(f"sqlite:///{store}").kind == "sqlite"
    assert open_reader(f"sqlite:///{store}", Via.SQL).kind == "sqlite"
    assert open_reader("http://127.0.0.1:1/").store == "http://127.0.0.1:1"
    assert open_reader("https://me:secret@host/mlflow/", Via.REST).store == "https://host/mlflow"


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2"])
def test_a_postgresql_store_is_named_without_its_reader(scheme: str) -> None:
    pytest.importorskip("adbc_driver_postgresql")
    reader = open_reader(f"{scheme}://me:secret@db.example:6000/mlflow?sslmode=require&options=-csearch_path%3Dx")
    assert (reader.kind, reader.store) == ("postgresql", "postgresql://db.example:6000/mlflow?options=-csearch_path=x")
    assert open_reader(f"{scheme}:///mlflow?host=/run/pg&password=secret").store == "postgresql:///run/pg:5432/mlflow"


def test_a_mysql_store_is_named_without_its_reader() -> None:
    pytest.importorskip("pymysql")
    reader = open_reader("mysql+mysqldb://me:secret@db.example/mlflow?charset=utf8mb4")
    assert (reader.kind, reader.store) == ("mysql", "mysql://db.example:3306/mlflow")
    assert open_reader("mariadb://h:7/d").store == "mysql://h:7/d"


@pytest.mark.parametrize(
    ("uri", "via", "said"),
    [
        ("mlflow.db", None, "'mlflow.db' is not a tracking URI"),
        ("databricks", None, "is not a tracking URI"),
        ("sqlite:///", None, "names no file"),
        ("sqlite:///:memory:", None, "names no file"),
        ("http://", None, "is not a tracking URI"),
        ("http:///x", None, "names no host"),
        ("mssql+pyodbc://u:secret@h/d", None, "cannot read mssql:// stores directly. start `mlflow server`"),
        ("mysql://u:secret@h", None, "names no database"),
        ("mysql://u:secret@h:port/d", None, "is not one of MySQL's"),
        ("file:///tmp/mlruns", None, "cannot read file:// stores"),
        ("http://u:secret@127.0.0.1:5000", Via.SQL, "is a server, --via sql reads a database"),
        (
            "postgresql://u:secret@h/d?password=secret",
            Via.REST,
            "start `mlflow server --backend-store-uri postgresql://u@h/d`",
        ),
        ("sqlite:///mlflow.db", Via.REST, "is a database, --via rest reads a server"),
    ],
)
def test_a_uri_that_cannot_be_read_is_one_line_without_its_password(uri: str, via: Via | None, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        open_reader(uri, via)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_password_with_a_slash_is_not_shown() -> None:
    assert shown("postgresql://u:se/cret@h/d") == "postgresql://u@h/d"


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "adbc_driver_postgresql", None)
    with pytest.raises(StoreError, match=r"adbc-driver-postgresql.*pip install 'hwbench-mlflow\[postgresql\]'"):
        open_reader("postgresql://h/d")


def test_a_missing_mysql_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pymysql", None)
    with pytest.raises(StoreError, match=r"PyMySQL.*pip install 'hwbench-mlflow\[mysql\]'"):
        open_reader("mysql://h/d")


def test_who_we_are_comes_from_mlflows_own_variables() -> None:
    import requests

    def signed(uri: str, **environ: str) -> str | None:
        session = Server(uri, environ)._session()
        return session.prepare_request(requests.Request("GET", "http://h/")).headers.get("Authorization")

    names = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pw"}
    assert signed("http://h") is None
    assert signed("http://h", **names) == "Basic bWU6cHc="
    assert signed("http://h", MLFLOW_TRACKING_TOKEN="t") == "Bearer t"
    assert signed("http://me:pw@h", MLFLOW_TRACKING_TOKEN="t") == "Basic bWU6cHc="
    session = Server("http://h", {"MLFLOW_WORKSPACE": "w", "MLFLOW_TRACKING_INSECURE_TLS": "true"})._session()
    assert (session.headers["X-MLFLOW-WORKSPACE"], session.verify) == ("w", False)
