"""Who is asking: carriers' webhooks and media sockets are let in or refused here, all alike.

Whatever a carrier is configured with has to be shown: its signature on every webhook, a password,
an allowed address. With nothing configured only requests made on this machine are served.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from flowcat_server.core.carrier import Account, Request, Verdict
from flowcat_server.core.proof import basic, same
from flowcat_server.errors import SharedStateError
from flowcat_server.routes import refusals
from flowcat_server.routes.bodies import read_body
from flowcat_server.routes.lines import Line
from flowcat_server.routes.peers import (
    Network,
    client_address,
    in_networks,
    is_local,
    is_other_site,
    public_base,
)
from flowcat_server.routes.tokens import Memory, Once

log = structlog.get_logger()

MAX_BODY_BYTES = 64 * 1024
MAX_FIELDS = 256
REPLAY_WINDOW_S = 24 * 3600
"""A webhook is refused the second time, for as long as we remember it."""
_TOKEN = re.compile(r"(token[/=])[^/?&#]+")
_FORM = "application/x-www-form-urlencoded"


class Gate:
    """Lets carriers in."""

    def __init__(
        self,
        public_url: str,
        trusted: tuple[Network, ...],
        clock: Callable[[], float] = time.time,
        seen: Memory | None = None,
    ) -> None:
        """Create the gate.

        Args:
            public_url: This server as carriers reach it, if that is configured.
            trusted: Proxies whose forwarded headers are believed.
            clock: Seconds since 1970; signatures carry their time.
            seen: Remembers webhooks for several processes; absent: for this one.
        """
        self._public_url = public_url
        self._trusted = trusted
        self._clock = clock
        self._seen = seen or Once(REPLAY_WINDOW_S, forget_oldest=True)

    # --- reading ----------------------------------------------------------------------------

    def base(self, request: web.Request) -> str:
        """This server as the carrier reaches it."""
        return public_base(request, self._public_url, self._trusted)

    def address(self, request: web.Request) -> str:
        """The carrier's address."""
        return client_address(request, self._trusted)

    async def read(self, request: web.Request) -> Request:
        """A webhook as the carrier sent it, read to its end."""
        if request.method not in ("GET", "POST"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "POST"])
        body = await read_body(request, MAX_BODY_BYTES) if request.method == "POST" else b""
        is_form = request.method == "POST" and request.content_type == _FORM
        form = pairs(body.decode("utf-8", "replace")) if is_form else None
        return self._wire(request, self._url(request), body, form)

    def _wire(
        self,
        request: web.Request,
        url: str,
        body: bytes = b"",
        form: list[tuple[str, str]] | None = None,
    ) -> Request:
        headers = {name.lower(): value for name, value in request.headers.items()}
        return Request(
            request.method, url, headers, body, pairs(request.raw_path.partition("?")[2]), form
        )

    def _url(self, request: web.Request) -> str:
        """What the carrier signed. Only the path and query come from the request itself."""
        if not request.raw_path.startswith("/"):
            raise web.HTTPBadRequest(text="not a path")
        return self.base(request) + request.raw_path

    # --- webhooks ---------------------------------------------------------------------------

    async def admit_webhook(self, request: web.Request, wire: Request, line: Line) -> None:
        """Refuse a webhook that does not show everything that the carrier is configured with."""
        account = line.account
        if not account.guarded:
            self._only_local(request, line)
            return
        self._check_address(request, line)
        if account.password and not _basic_fits(wire, account):
            log.warning("webhook_refused", carrier=line.carrier.name, reason="password")
            raise _unauthorized()
        if account.webhook_key:
            verdict = line.carrier.verify(wire, account, int(self._clock()))
            verdict = verdict or Verdict(proven=False, reason="not signed")
            self._check("webhook_refused", line, await self._once(verdict, line), wire.url)

    def handshake(self, request: web.Request) -> Request:
        """The request that opens a media socket, as the carrier sent it."""
        return self._wire(request, "ws" + self._url(request).removeprefix("http"))

    async def admit_handshake(self, request: web.Request, wire: Request, line: Line) -> bool:
        """Whether the peer is known already; if not, its stream token decides."""
        account = line.account
        if not account.guarded:
            self._only_local(request, line)
            return True
        self._check_address(request, line)
        proven = bool(account.allow_from)
        if account.password and line.carrier.basic_on_socket:
            if not _basic_fits(wire, account):
                log.warning("media_refused", carrier=line.carrier.name, reason="password")
                raise _unauthorized()
            proven = True
        if account.webhook_key:
            verdict = line.carrier.verify_handshake(wire, account, int(self._clock()))
            if verdict is None:
                return proven
            if line.carrier.handshake_suffices:
                verdict = await self._once(verdict, line)
            self._check("media_refused", line, verdict, wire.url)
            proven = True
        return proven

    # --- inside -----------------------------------------------------------------------------

    async def _once(self, verdict: Verdict, line: Line) -> Verdict:
        """A request that was signed, and has been seen before, proves nothing."""
        if not verdict.proven or not verdict.key:
            return verdict
        try:
            if await self._seen.first(f"{line.carrier.name} {verdict.key}"):
                return verdict
        except SharedStateError as error:
            log.error("carrier_refused", carrier=line.carrier.name, reason=str(error))  # noqa: TRY400 - no fault of ours
            raise web.HTTPServiceUnavailable(text="try again later") from error
        return Verdict(proven=False, reason="replayed")

    def _check(self, event: str, line: Line, verdict: Verdict, url: str) -> None:
        if verdict.proven:
            return
        shown = _TOKEN.sub(r"\1...", url)
        log.warning(event, carrier=line.carrier.name, reason=verdict.reason, url=shown)
        raise web.HTTPForbidden(
            text=refusals.REPLAYED if verdict.reason == "replayed" else refusals.SIGNATURE
        )

    def _check_address(self, request: web.Request, line: Line) -> None:
        if not line.networks or in_networks(self.address(request), line.networks):
            return
        log.warning("carrier_refused", carrier=line.carrier.name, reason="address")
        raise web.HTTPForbidden(text=refusals.not_allowed(line.carrier.name))

    def _only_local(self, request: web.Request, line: Line) -> None:
        """Without credentials: programs of this machine, but not web pages opened on it."""
        if is_local(request, self._trusted) and not is_other_site(request):
            return
        log.warning("carrier_refused", reason=f"no {line.credential} configured")
        raise web.HTTPForbidden(text=refusals.not_configured(line.credential))


def pairs(encoded: str) -> list[tuple[str, str]]:
    """A query or a form, decoded, blanks kept."""
    try:
        return parse_qsl(encoded, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise web.HTTPBadRequest(text="too many fields") from error


def _basic_fits(request: Request, account: Account) -> bool:
    return same(basic(account.user, account.password), request.headers.get("authorization", ""))


def _unauthorized() -> web.HTTPUnauthorized:
    return web.HTTPUnauthorized(text=refusals.PASSWORD, headers={"WWW-Authenticate": "Basic"})
