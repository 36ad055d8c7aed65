"""The API token: asked of everyone but this machine, for everything but webhooks and probes."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from urllib.parse import urlencode

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from flowcat_server.routes.peers import Network, is_local, is_other_site, public_base

COOKIE = "flowcat_token"
PROBES = ("/healthz", "/readyz")
CARRIERS = "/telephony/"
"""Probes give nothing away; carriers prove themselves in their own way."""
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob:; style-src 'self'; "
    "script-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_DENIED = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Token needed</title>
<h1>This page needs a token</h1><p>Open the address that the server printed when it started; it
ends in <code>?token=...</code>. The token is also the setting <code>server.api_token</code>.</p>
</html>"""


def guard(token: str, *, public_url: str = "", trusted: Sequence[Network] = ()) -> Middleware:
    """Middleware that lets in this machine and whoever brings `token`.

    Args:
        token: The API token.
        public_url: This server as browsers reach it, if that is configured.
        trusted: Proxies whose forwarded headers are believed.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in PROBES or request.path.startswith(CARRIERS):
            return await handler(request)
        base = public_base(request, public_url, trusted)
        asked_by_page = "Origin" in request.headers and "Authorization" not in request.headers
        if asked_by_page and is_other_site(request, base):
            # Other sites must not use this browser's cookie, nor its address.
            raise web.HTTPForbidden(text="requests from other sites are not accepted")
        good = _is_good(_offered(request), token)
        if good and request.path == "/" and "token" in request.query:
            return _remember(request, token, secure=base.startswith("https://"))
        if not good and not is_local(request, trusted):
            return _denied(request)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    return middleware


def _is_good(offered: str, token: str) -> bool:
    # Header bytes that are no UTF-8 arrive as surrogates.
    given = offered.encode("utf-8", "surrogateescape")
    return bool(given) and hmac.compare_digest(given, token.encode())


def _offered(request: web.Request) -> str:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return request.query.get("token", "") or request.cookies.get(COOKIE, "")


def _remember(request: web.Request, token: str, *, secure: bool) -> web.Response:
    """Move the token from the address into a cookie, so that it does not stay in the history."""
    rest = [(name, value) for name, value in request.query.items() if name != "token"]
    # Relative, so that it is right behind a proxy that strips a path.
    location = "./" + (f"?{urlencode(rest)}" if rest else "")
    response = web.Response(status=303, headers={"Location": location, **HEADERS})
    response.set_cookie(COOKIE, token, httponly=True, samesite="Strict", secure=secure, path="/")
    return response


def _denied(request: web.Request) -> web.Response:
    if request.path == "/":
        return web.Response(status=401, text=_DENIED, content_type="text/html", headers=HEADERS)
    return web.json_response(
        {"error": "unauthorized", "message": "This needs the API token."},
        status=401,
        headers={"WWW-Authenticate": "Bearer", **HEADERS},
    )
