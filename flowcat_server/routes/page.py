"""The browser page: files of the package, same origin only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from flowcat_server.errors import FlowcatError

_PACKAGE = Path(__file__).resolve().parent.parent


def web_directory() -> Path:
    """Where the page's files are: inside the wheel, or beside the package in a checkout."""
    for candidate in (_PACKAGE / "_data" / "web", _PACKAGE.parent / "web"):
        if (candidate / "index.html").is_file():
            return candidate
    raise FlowcatError("the page's files are not installed; reinstall flowcat-server")


class PageDoor:
    """``GET /`` and ``GET /web/...``."""

    def __init__(self) -> None:
        self._directory = web_directory()

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        """The door's routes."""
        return [
            web.get("/", self.index),
            web.get("/favicon.ico", self.favicon),
            web.static("/web", self._directory, append_version=False),
        ]

    async def index(self, request: web.Request) -> web.StreamResponse:
        """The page."""
        del request
        return web.FileResponse(
            self._directory / "index.html", headers={"Cache-Control": "no-cache"}
        )

    async def favicon(self, request: web.Request) -> web.StreamResponse:
        """Browsers ask for it unasked."""
        del request
        icon = self._directory / "icon.svg"
        if not icon.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(icon)
