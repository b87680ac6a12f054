"""Plain HTTP to an MLflow tracking server: who we are, retries with back-off, and every failure as one sentence.

Knows the protocol's errors; no endpoint, no table. Imports nothing of mlflow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from hwbench_mlflow.errors import StoreError

if TYPE_CHECKING:
    import requests

RETRIED = frozenset({429, 500, 502, 503, 504})
TRIES = 5
BACKOFF_S = 0.5
"""Before the second try; doubled before each further one."""
TIMEOUT_S = (10.0, 120.0)
"""To connect, and between two bytes of an answer: a page of a thousand runs takes a slow server many seconds."""


class NotThere(StoreError):
    """The server says, in MLflow's words, that what was asked for does not exist."""


class NoEndpoint(StoreError):
    """The address exists, the path does not: an older server, or a proxy that lets less through."""


class Forbidden(StoreError):
    """The server knows it, and does not show it to this user."""


class Server:
    """One tracking server. Thread-safe: each thread has its own session."""

    def __init__(
        self,
        uri: str,
        environ: Mapping[str, str],
        *,
        tries: int = TRIES,
        backoff_s: float = BACKOFF_S,
        timeout_s: tuple[float, float] = TIMEOUT_S,
    ) -> None:
        parts = urlsplit(uri)
        bare = parts.netloc.rpartition("@")[2]
        self.url = urlunsplit((parts.scheme, bare, parts.path.rstrip("/"), "", ""))
        self._tries, self._backoff_s, self._timeout_s = tries, backoff_s, timeout_s
        self._environ = environ
        self._userinfo = (unquote(parts.username or ""), unquote(parts.password or ""))
        self._local = threading.local()
        self._answered = False

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = self._new_session()
        return session

    def _new_session(self) -> requests.Session:
        """MLflow's own variables say who we are: user and password, or a token; a user in the URI comes first."""
        import requests

        session, env = requests.Session(), self._environ
        name, password = env.get("MLFLOW_TRACKING_USERNAME"), env.get("MLFLOW_TRACKING_PASSWORD")
        if self._userinfo[0]:
            session.auth = self._userinfo
        elif name and password:
            session.auth = (name, password)
        elif token := env.get("MLFLOW_TRACKING_TOKEN"):
            session.auth = _bearer(token)
        if env.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in {"1", "true"}:
            session.verify = False
        elif certificate := env.get("MLFLOW_TRACKING_SERVER_CERT_PATH"):
            session.verify = certificate
        if certificate := env.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
            session.cert = certificate
        if workspace := env.get("MLFLOW_WORKSPACE", "").strip():
            session.headers["X-MLFLOW-WORKSPACE"] = workspace
        return session

    def get(self, path: str, params: list[tuple[str, str]]) -> dict[str, Any]:
        """The JSON object that a GET answers with."""
        return self._call("GET", path, params=params)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that a POST answers with; only for the read-only searches."""
        return self._call("POST", path, json=body)

    def _call(self, method: str, path: str, **what: Any) -> dict[str, Any]:
        trouble = ""
        for attempt in range(self._tries):
            if attempt:
                time.sleep(self._backoff_s * 2 ** (attempt - 1))
            answer = self._once(method, path, what)
            if isinstance(answer, dict):
                self._answered = True
                return answer
            trouble = answer
            if not self._answered and trouble.startswith("no connection"):
                raise StoreError(f"no server answers at {self.url}", remedy="check --tracking-uri and that it runs")
        raise StoreError(
            f"{self.url} failed {self._tries} times at {path}: {trouble}",
            remedy="nothing was written; sync again when the server is well",
        )

    def _once(self, method: str, path: str, what: dict[str, Any]) -> dict[str, Any] | str:
        """The answer, or what went wrong in a way that may pass. Raises what will not pass."""
        import requests

        try:
            response = self._session().request(method, self.url + path, timeout=self._timeout_s, **what)
            code, text = response.status_code, response.text
        except requests.Timeout:
            return "no answer in time"
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            if isinstance(error, requests.exceptions.SSLError):
                raise StoreError(f"{self.url}: TLS failed: {str(error).splitlines()[0]}") from error
            return "no connection, or one that broke off"
        except requests.RequestException as error:
            raise StoreError(f"{self.url}: {str(error).splitlines()[0]}") from error
        if code in RETRIED:
            return f"status {code}"
        try:
            data = response.json()
        except requests.exceptions.JSONDecodeError:
            data = None
        if code == 200:
            if isinstance(data, dict):
                return data
            if not self._answered:
                raise StoreError(f"{self.url} is not an MLflow tracking server", remedy="check --tracking-uri")
            return "an answer that is not JSON"
        raise self._refusal(code, path, data, text)

    def _refusal(self, code: int, path: str, data: object, text: str) -> StoreError:
        error = data if isinstance(data, dict) else {}
        if code == 401:
            return StoreError(
                f"{self.url} does not accept the login",
                remedy="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
            )
        if code == 403:
            return Forbidden(f"{self.url} refuses {path} to this user")
        if error.get("error_code") == "RESOURCE_DOES_NOT_EXIST":
            return NotThere(str(error.get("message", "not there")).splitlines()[0])
        if code in {404, 405}:
            return NoEndpoint(f"{self.url} has no {path}: not an MLflow tracking server, or an old one")
        said = str(error.get("message") or text or "").strip().splitlines()
        return StoreError(f"{self.url} answered {path} with status {code}: {said[0][:200] if said else 'no reason'}")


def _bearer(token: str) -> Any:
    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign
