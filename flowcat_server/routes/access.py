"""The API token: asked of everyone but this machine, for everything but webhooks and probes."""

from __future__ import annotations

import hmac
from urllib.parse import urlencode, urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from flowcat_server.routes.peers import is_local

COOKIE = "flowcat_token"
OPEN_PREFIXES = ("/healthz", "/readyz", "/telephony/")
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


def guard(token: str) -> Middleware:
    """Middleware that lets in this machine and whoever brings `token`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(OPEN_PREFIXES):
            return await handler(request)
        if not _same_origin(request):
            raise web.HTTPForbidden(text="requests from other sites are not accepted")
        offered = _offered(request)
        good = bool(offered) and hmac.compare_digest(offered.encode(), token.encode())
        if good and "token" in request.query and request.method == "GET":
            return _remember(request, token)
        if not good and not is_local(request):
            return _denied(request)
        response = await handler(request)
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    return middleware


def _offered(request: web.Request) -> str:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return request.query.get("token", "") or request.cookies.get(COOKIE, "")


def _same_origin(request: web.Request) -> bool:
    """Browsers say where a request comes from; other sites must not use our cookie or address."""
    origin = request.headers.get("Origin")
    if origin is None or "Authorization" in request.headers:
        return True
    return urlsplit(origin).netloc == request.host


def _remember(request: web.Request, token: str) -> web.Response:
    """Move the token from the address into a cookie, so that it does not stay in the history."""
    rest = {name: value for name, value in request.query.items() if name != "token"}
    location = request.path + (f"?{urlencode(rest)}" if rest else "")
    response = web.Response(status=303, headers={"Location": location, **HEADERS})
    response.set_cookie(
        COOKIE, token, httponly=True, samesite="Strict", secure=request.secure, path="/"
    )
    return response


def _denied(request: web.Request) -> web.Response:
    if request.path == "/":
        return web.Response(status=401, text=_DENIED, content_type="text/html", headers=HEADERS)
    return web.json_response(
        {"error": "unauthorized", "message": "This needs the API token."},
        status=401,
        headers={"WWW-Authenticate": "Bearer", **HEADERS},
    )
