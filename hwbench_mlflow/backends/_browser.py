"""A browser of the system as a device's driver: found, started, asked, and ended.

Owns where the browser and onnxruntime-web are looked for, the loopback server that gives the page its files, and
the one line that a browser's failure becomes. Knows neither WebGPU nor WebNN. playwright is imported only inside
functions.
"""

from __future__ import annotations

import contextlib
import mimetypes
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hwbench_mlflow.backends._reference import one_line
from hwbench_mlflow.errors import BenchmarkFailed
from hwbench_mlflow.model import FailureCategory

BROWSER_VARIABLE = "HWBENCH_BROWSER"
"""The browser's executable, where the first of the system's is not the one to use (``--browser`` sets it)."""

RUNTIME_VARIABLE = "HWBENCH_ONNXRUNTIME_WEB"
"""A folder with onnxruntime-web's ``dist`` files, where they are not beside the page."""

NAMES = (
    "chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "microsoft-edge-stable",
    "microsoft-edge", "msedge",
)  # fmt: skip
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
RUNTIME_FILE = "ort.webgpu.min.mjs"
RUNTIME_VERSION = "1.30.0"

# Nothing that the browser does for itself belongs into a measurement, and none of it may leave the machine.
ARGUMENTS = (
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
    "--no-first-run", "--no-default-browser-check", "--disable-extensions",
)  # fmt: skip

OLDEST = 113
"""The first Chromium with WebGPU, and with the module workers and isolated pages that this page needs."""

START_TIMEOUT_MS = 60_000
ANSWER_TIMEOUT_MS = 600_000


class BrowserMissing(Exception):
    """Something that the platform needs is not installed; ``remedy`` says what would help."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


def page_folder() -> Path:
    """The folder of the page: beside the package in a wheel, ``projects/web`` in a source tree.

    Raises :class:`BrowserMissing`.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "web", package.parent / "projects" / "web"):
        if (folder / "worker.mjs").is_file():
            return folder
    raise BrowserMissing("hwbench's page for browsers is missing", "Reinstall hwbench-mlflow")


def runtime_folder() -> Path:
    """onnxruntime-web's ``dist``: what the variable names, beside the page, or in hwbench's home.

    Raises :class:`BrowserMissing`.
    """
    from hwbench_mlflow.home import default_home

    named = os.environ.get(RUNTIME_VARIABLE)
    below = Path("node_modules") / "onnxruntime-web" / "dist"
    places = [Path(named)] if named else [page_folder() / below, default_home() / "web" / below]
    for folder in places:
        if (folder / RUNTIME_FILE).is_file():
            return folder
    looked = " and ".join(str(place) for place in places)
    raise BrowserMissing(
        f"onnxruntime-web is not installed (looked in {looked})",
        f"npm install --prefix {default_home() / 'web'} onnxruntime-web@{RUNTIME_VERSION}",
    )


def find_browser() -> Path:
    """The executable that the variable names, or the first of Chromium, Chrome and Edge on this system.

    Raises :class:`BrowserMissing`.
    """
    named = os.environ.get(BROWSER_VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise BrowserMissing(f"{named} is not an executable file", f"Check --browser or {BROWSER_VARIABLE}")
        return Path(found)
    for candidate in (*NAMES, *PLACES):
        found = shutil.which(candidate)
        if found is not None:
            return Path(found)
    raise BrowserMissing(
        "no Chromium, Chrome or Edge was found",
        "Install one (Debian: apt install chromium), or name its executable with --browser",
    )


@dataclass(slots=True)
class Files:
    """What the server gives, by path below its secret prefix, and what was sent to it."""

    folders: dict[str, Path] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    received: dict[str, bytes] = field(default_factory=dict)


class Server:
    """A server on loopback, on a free port, under a path that only its own page knows. It sends the headers that
    make a page cross-origin isolated, for its clock of 5 µs and its shared memory."""

    def __init__(self) -> None:
        self.files = Files()
        self.prefix = f"/{secrets.token_urlsafe(16)}/"
        handler = type("Handler", (_Handler,), {"files": self.files, "prefix": self.prefix})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="hwbench-page", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{self.prefix}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    files: Files
    prefix: str
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self._name()
        blob = self.files.blobs.get(name)
        if blob is not None:
            self._head(HTTPStatus.OK, len(blob), "application/octet-stream")
            self.wfile.write(blob)
            return
        path = self._path(name)
        if path is None:
            self._head(HTTPStatus.NOT_FOUND, 0, "text/plain")
            return
        kind = "text/javascript" if path.suffix == ".mjs" else mimetypes.guess_type(path.name)[0]
        with path.open("rb") as file:
            self._head(HTTPStatus.OK, os.fstat(file.fileno()).st_size, kind or "application/octet-stream")
            shutil.copyfileobj(file, self.wfile, 1 << 20)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.files.received[self._name()] = body
        self._head(HTTPStatus.NO_CONTENT, 0, "text/plain")

    def _name(self) -> str:
        """What is asked for, or nothing where the secret is not in it."""
        return self.path.removeprefix(self.prefix) if self.path.startswith(self.prefix) else "/"

    def _path(self, name: str) -> Path | None:
        if name in self.files.files:
            return self.files.files[name]
        folder, _, file = f"./{name}".rpartition("/")
        known = self.files.folders.get(folder)
        path = known / (file or "index.html") if known is not None else None
        return path if path is not None and path.is_file() else None

    def _head(self, status: HTTPStatus, length: int, kind: str) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(length)),
            ("Cache-Control", "no-store"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Embedder-Policy", "require-corp"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class Page:
    """The open page, and what is known of the browser around it."""

    def __init__(self, page: Any, server: Server, *, version: str, system: dict[str, Any]) -> None:
        self._page = page
        self.files = server.files
        self.version = version
        self.system = system
        """The DevTools protocol's ``SystemInfo.getInfo``: the GPU process's own view, and the command line."""

    def ask(self, operation: str, argument: Any = None, timeout_ms: int = ANSWER_TIMEOUT_MS) -> Any:
        """What the worker in the page answers.

        Raises :class:`PageError` with the browser's words, :class:`BenchmarkFailed` where it hangs or went away.
        """
        from playwright.sync_api import Error

        try:
            answer = self._page.evaluate(
                "([operation, argument, limit]) => hwbench(operation, argument, limit)",
                [operation, argument, timeout_ms],
            )
        except Error as error:
            raise BenchmarkFailed(f"the browser went away: {one_line(error.message)}", FailureCategory.CRASH) from error
        if "error" not in answer:
            return answer.get("value")
        if answer["kind"] == "timeout":
            raise BenchmarkFailed(f"the browser hangs: {answer['error']}", FailureCategory.TIMEOUT)
        raise PageError(one_line(str(answer["error"])), str(answer["kind"]))

    def cpu_ns(self) -> int | None:
        """CPU time of the browser's processes so far, in ns; None where one of them is gone."""
        import psutil

        total = 0.0
        try:
            for process in psutil.Process().children(recursive=True):
                times = process.cpu_times()
                total += times.user + times.system
        except psutil.NoSuchProcess:
            return None
        return round(total * 1e9)

    def command_line(self) -> tuple[str, ...]:
        """The switches that the browser runs with, as it says itself."""
        return tuple(str(self.system.get("commandLine", "")).split(" --"))


class PageError(Exception):
    """Something failed in the page. ``kind`` is the JavaScript error's name."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@contextlib.contextmanager
def open_page(arguments: Sequence[str]) -> Iterator[Page]:
    """Start the browser, headless, with a profile of its own, and load the page. Both end with the block, and the
    browser with this process.

    Raises :class:`BrowserMissing`, and :class:`BenchmarkFailed` for a browser that does not start.
    """
    executable, page_files, runtime = find_browser(), page_folder(), runtime_folder()
    try:
        from playwright.sync_api import Error, sync_playwright
    except ModuleNotFoundError as error:
        raise BrowserMissing(
            f"playwright cannot be imported: no module named {error.name!r}", "pip install 'hwbench-mlflow[web]'"
        ) from error
    sandbox = () if sys.platform != "linux" or os.geteuid() != 0 else ("--no-sandbox",)
    with contextlib.ExitStack() as stack:
        try:
            server = Server()
        except OSError as error:
            raise BenchmarkFailed(
                f"no port on loopback for the page: {one_line(error)}", FailureCategory.CRASH
            ) from error
        stack.callback(server.close)
        server.files.folders = {".": page_files, "./ort": runtime}
        try:
            driver = stack.enter_context(_driver(sync_playwright))
            browser = driver.chromium.launch(
                executable_path=str(executable),
                headless=True,
                args=[*ARGUMENTS, *sandbox, *arguments],
                timeout=START_TIMEOUT_MS,
                handle_sigint=False,
                handle_sigterm=False,
            )
            stack.callback(_close, browser)
            _require_new(executable, browser.version)
            system = browser.new_browser_cdp_session().send("SystemInfo.getInfo")
            page = browser.new_page()
            page.goto(server.url, timeout=START_TIMEOUT_MS)
            page.wait_for_function("() => typeof globalThis.hwbench === 'function'", timeout=START_TIMEOUT_MS)
        except Error as error:
            first = next((line for line in error.message.splitlines() if line.strip()), "")
            raise BenchmarkFailed(
                f"{executable} could not be started: {one_line(first)}", FailureCategory.CRASH
            ) from error
        opened = Page(page, server, version=browser.version, system=system)
        clock = opened.ask("clock", timeout_ms=START_TIMEOUT_MS)
        if clock["isolated"] is not True:
            raise BenchmarkFailed(
                "the page is not cross-origin isolated: its clock is too coarse", FailureCategory.CRASH
            )
        yield opened


def _require_new(executable: Path, version: str) -> None:
    """Raises :class:`BrowserMissing` for a browser that is too old to ask anything of."""
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < OLDEST:
        raise BrowserMissing(
            f"{executable} is Chromium {version}; {OLDEST} is the oldest that will do",
            "Update it, or name another one with --browser",
        )


_running: list[Any] = []


@contextlib.contextmanager
def _driver(start: Callable[[], Any]) -> Iterator[Any]:
    """playwright's driver: one a process, as two in one thread are refused. The first to come ends it."""
    if _running:
        yield _running[0]
        return
    with start() as driver:
        _running.append(driver)
        try:
            yield driver
        finally:
            _running.clear()


def _close(browser: Any) -> None:
    from playwright.sync_api import Error

    with contextlib.suppress(Error):  # it went away before: nothing is left to close
        browser.close()
