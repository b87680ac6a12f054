"""The status dashboard's server: pages that something else makes, on loopback. Only it imports Starlette and uvicorn.

Why these and not Streamlit, Dash or Panel: the pages are tables and figures that have to be whole without script, to
print, to be read aloud and to be written as files; those frameworks draw in the browser, over a websocket, and what
they write as files is an application. Starlette and uvicorn are what MLflow itself serves with: they cost no download.

Owns routes, headers and the refusal of names that are not this machine's (a page elsewhere could otherwise read the
dashboard through a name that it points at 127.0.0.1). Knows neither warehouse nor MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from hwbench_mlflow.errors import HwbenchError, StoreError, UsageError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; connect-src 'self'; base-uri 'none'"
"""Figures carry styles of their own; nothing is fetched from elsewhere, and no script but ours runs."""

MAX_OFFSET = 10_000_000


class Site(Protocol):
    """What is served."""

    def open(self) -> None:
        """Called once the address is ours, before it is told to anybody."""
        ...

    def page(self, name: str, arguments: Mapping[str, str], offset: int) -> str | None:
        """A page; None if there is none of that name. Raises :class:`HwbenchError` for what cannot be read."""
        ...

    def error(self, name: str, message: str) -> str:
        """A page that says why there is none."""
        ...

    def stamp(self) -> str:
        """Changes whenever a page would."""
        ...

    def assets(self) -> Mapping[str, tuple[str, str]]:
        """Files beside the pages: name -> media type and content."""
        ...


def application(site: Site, host: str) -> Starlette:
    """The routes of ``site``, for requests that name ``host`` or loopback."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.responses import Response as Plain
    from starlette.routing import Route

    files = site.assets()

    # Plain functions: Starlette runs them in threads, so a slow page does not keep the others waiting.
    def page(request: Request) -> Response:
        name = request.path_params.get("name", "index")
        arguments = {**request.query_params, **{k: v for k, v in request.path_params.items() if k != "name"}}
        try:
            html = site.page(name, arguments, _offset(arguments))
        except UsageError as error:
            return HTMLResponse(site.error(name, str(error)), 400, _headers())
        except HwbenchError as error:
            return HTMLResponse(site.error(name, str(error)), 503, _headers())
        if html is None:
            return HTMLResponse(site.error(name, f"there is no page {request.url.path}"), 404, _headers())
        return HTMLResponse(html, 200, _headers())

    def result(request: Request) -> Response:
        request.path_params["name"] = "result"
        return page(request)

    def asset(request: Request) -> Response:
        kind, content = files[request.url.path.lstrip("/")]
        return Plain(content, 200, {**_headers(), "Cache-Control": "max-age=3600"}, kind)

    def stamp(_: Request) -> Response:
        return PlainTextResponse(site.stamp(), 200, _headers())

    routes = [
        Route("/", page),
        Route("/stamp", stamp),
        *(Route(f"/{name}", asset) for name in files),
        Route("/results/{run}", result),
        Route("/{name}", page),
    ]
    names = sorted({*LOOPBACK, "[::1]", host})
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=names)])


def _offset(arguments: Mapping[str, str]) -> int:
    text = arguments.get("offset", "0")
    if not text.isascii() or not text.isdigit() or int(text[:12]) > MAX_OFFSET:
        raise UsageError(f"offset {text[:20]!r} is no number of rows")
    return int(text)


def _headers() -> dict[str, str]:
    return {
        "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY", "Cache-Control": "no-store",
    }  # fmt: skip


def serve(site: Site, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until the process is told to stop. ``ready`` is called with the address, once it answers there and Ctrl-C
    ends it well.

    ``port`` 0 takes a free one. Raises :class:`StoreError` for an address that cannot be had.
    """
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise StoreError(
                f"cannot listen on {host}:{port}: {error.strerror or error}", remedy="name another --port, or 0 for any"
            ) from error
        listening.listen()
        bound = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        site.open()

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                ready(f"http://{shown}:{bound}/")

        Server(
            uvicorn.Config(
                application(site, host), log_level="warning", access_log=False, lifespan="off", server_header=False
            )
        ).run(sockets=[listening])
