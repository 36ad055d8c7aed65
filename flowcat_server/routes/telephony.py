"""Phone calls: the carrier's webhook and its media socket."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import structlog
from aiohttp import WSCloseCode, web

from flowcat_server.calls import Calls, Incoming, Reservation
from flowcat_server.carriers import twilio
from flowcat_server.config.models import Config
from flowcat_server.core import ended
from flowcat_server.core.carrier import RestRequest, Started
from flowcat_server.errors import AuthError, CallRefused
from flowcat_server.providers.http import Http
from flowcat_server.routes.peers import Network, is_local, public_base
from flowcat_server.routes.tokens import Once, StreamTokens
from flowcat_server.session import Session
from flowcat_server.transports.pacer import Pacer
from flowcat_server.transports.websocket import (
    MAX_MESSAGE_BYTES,
    WebSocketTransport,
    read_start,
)

log = structlog.get_logger()

START_TIMEOUT_MS = 10_000
MAX_FORM_BYTES = 64 * 1024
MAX_WAITING_SOCKETS = 64
"""Media sockets that have not yet said which call they belong to."""
REPLAY_WINDOW_S = 300
REST_TIMEOUT_S = 5.0
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(slots=True)
class _Expected:
    """A call whose webhook was answered and whose media socket is awaited."""

    reservation: Reservation
    incoming: Incoming


class TwilioDoor:
    """``/telephony/answer/twilio`` and ``/telephony/ws/twilio``.

    With an auth token configured every webhook must carry Twilio's signature and every media
    socket a token minted for its call. Without one, only requests made on this machine are
    served.
    """

    def __init__(
        self,
        config: Config,
        calls: Calls,
        tokens: StreamTokens,
        pacer: Pacer,
        http: Http,
        trusted: tuple[Network, ...],
    ) -> None:
        self._calls = calls
        self._tokens = tokens
        self._pacer = pacer
        self._http = http
        self._trusted = trusted
        self._public_url = config.server.public_url
        self._account_sid = config.carriers.twilio.account_sid
        self._auth_token = config.carriers.twilio.auth_token.get_secret_value()
        self._seen_webhooks = Once(REPLAY_WINDOW_S)
        self._expected: dict[str, _Expected] = {}
        self._waiting = 0

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        """The door's routes."""
        return [
            web.route("*", "/telephony/answer/twilio", self.answer),
            web.route("*", "/telephony/answer/twilio/{run_id}", self.answer),
            web.get("/telephony/ws/twilio", self.media),
            web.get("/telephony/ws/twilio/{run_id}", self.media),
        ]

    # --- the webhook ------------------------------------------------------------------------

    async def answer(self, request: web.Request) -> web.Response:
        """Verify the webhook, reserve a place, and connect the call to our media socket."""
        if request.method not in ("GET", "POST"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "POST"])
        run_id = _run_id(request)
        form = await _form(request)
        self._verify_webhook(request, form)
        fields = dict(form)
        call_sid = fields.get("CallSid", "")
        if not call_sid or len(call_sid) > twilio.MAX_ID_CHARS:
            raise web.HTTPBadRequest(text="CallSid is missing")
        try:
            reservation = self._calls.reserve()
        except CallRefused:
            return _xml(twilio.busy())
        self._forget_unheld()
        previous = self._expected.pop(call_sid, None)
        if previous is not None:
            previous.reservation.release()
        self._expected[call_sid] = _Expected(
            reservation,
            Incoming(
                channel=twilio.NAME,
                from_number=_short(fields.get("From")),
                to_number=_short(fields.get("To")),
                external_id=call_sid,
                variables=_variables(fields, run_id),
            ),
        )
        base = public_base(request, self._public_url, self._trusted)
        url = "ws" + base.removeprefix("http") + "/telephony/ws/twilio"
        if run_id:
            url += f"/{run_id}"
        log.info("call_answered", carrier=twilio.NAME, external_id=call_sid)
        return _xml(twilio.answer(url, {"token": self._tokens.mint(twilio.NAME, call_sid)}))

    def _verify_webhook(self, request: web.Request, form: list[tuple[str, str]]) -> None:
        if not self._auth_token:
            if not is_local(request):
                log.warning("webhook_refused", reason="no carriers.twilio.auth_token configured")
                raise web.HTTPForbidden(text="carriers.twilio.auth_token is not configured")
            return
        given = request.headers.get("X-Twilio-Signature", "")
        url = self._url(request)
        posted = form if request.method == "POST" else []
        if not twilio.verify(self._auth_token, given, url, posted):
            log.warning("webhook_refused", reason="signature", url=url)
            raise web.HTTPForbidden(text="signature does not match")
        if not self._seen_webhooks.first(given):
            log.warning("webhook_refused", reason="replayed")
            raise web.HTTPForbidden(text="replayed")

    def _url(self, request: web.Request) -> str:
        base = public_base(request, self._public_url, self._trusted)
        return base + request.raw_path if request.raw_path.startswith("/") else request.raw_path

    # --- the media socket -------------------------------------------------------------------

    async def media(self, request: web.Request) -> web.WebSocketResponse:
        """Authenticate the socket, find its call and run it to its end."""
        _run_id(request)
        local = is_local(request)
        self._verify_handshake(request, local=local)
        if self._waiting >= MAX_WAITING_SOCKETS:
            raise web.HTTPServiceUnavailable(text="too many sockets without a call")
        socket = web.WebSocketResponse(
            compress=False, max_msg_size=MAX_MESSAGE_BYTES, decode_text=False, autoping=True
        )
        self._waiting += 1
        try:
            await socket.prepare(request)
            stream = twilio.Stream()
            started = await read_start(socket, stream, START_TIMEOUT_MS)
        finally:
            self._waiting -= 1
        if started is None or started.format is None:
            log.warning("media_refused", reason="no usable start message")
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"no usable start")
            return socket
        try:
            expected = self._claim(started, local=local)
        except (AuthError, CallRefused) as error:
            log.warning("media_refused", reason=str(error))
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"refused")
            return socket
        await self._run(socket, stream, started, expected)
        return socket

    def _verify_handshake(self, request: web.Request, *, local: bool) -> None:
        if not self._auth_token:
            if not local:
                raise web.HTTPForbidden(text="carriers.twilio.auth_token is not configured")
            return
        given = request.headers.get("X-Twilio-Signature")
        if given is None:
            return  # the stream token decides
        url = "ws" + self._url(request).removeprefix("http")
        if not twilio.verify(self._auth_token, given, url):
            log.warning("media_refused", reason="handshake signature")
            raise web.HTTPForbidden(text="signature does not match")

    def _claim(self, started: Started, *, local: bool) -> _Expected:
        token = started.parameters.get("token", "")
        if token or self._auth_token or not local:
            self._tokens.consume(token, twilio.NAME, started.call_id)
        expected = self._expected.pop(started.call_id, None)
        if expected is not None and expected.reservation.held:
            return expected
        # A socket opened on this machine without a webhook (tests, load), or one whose
        # reservation ran out while its token had not.
        return _Expected(
            self._calls.reserve(),
            Incoming(channel=twilio.NAME, external_id=started.call_id),
        )

    async def _run(
        self,
        socket: web.WebSocketResponse,
        stream: twilio.Stream,
        started: Started,
        expected: _Expected,
    ) -> None:
        assert started.format is not None  # noqa: S101 - checked by `media`
        transport = WebSocketTransport(socket, stream, started.format, self._pacer)

        async def before_close(session: Session) -> None:
            if session.reason in (ended.CALLER_HUNG_UP, ended.CARRIER_CLOSED):
                return
            request = self._rest(session, started)
            if request is not None:
                await self._send(request)

        _, task = self._calls.start(
            expected.reservation,
            transport,
            expected.incoming,
            work=[("receive", transport.serve), ("send", transport.send_all)],
            before_hang_up=before_close,
        )
        await asyncio.wait([task])

    # --- REST -------------------------------------------------------------------------------

    def _rest(self, session: Session, started: Started) -> RestRequest | None:
        """What to ask of the carrier when we end the call; None if closing the socket will do."""
        account = self._account_sid or started.account_id
        if not self._auth_token or not account or session.transfer is None:
            return None  # <Hangup/> follows <Connect>
        return twilio.transfer_request(
            account, self._auth_token, started.call_id, session.transfer.phone, session.to_number
        )

    async def _send(self, request: RestRequest) -> None:
        try:
            async with asyncio.timeout(REST_TIMEOUT_S):
                async with self._http.session.request(
                    request.method,
                    request.url,
                    data=dict(request.form),
                    auth=aiohttp.BasicAuth(request.user, request.password),
                ) as response:
                    if response.status >= 400 and response.status not in request.gone_status:
                        log.warning("carrier_request_failed", status=response.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("carrier_request_failed", error=str(error) or type(error).__name__)

    def _forget_unheld(self) -> None:
        gone = [sid for sid, entry in self._expected.items() if not entry.reservation.held]
        for sid in gone:
            del self._expected[sid]


def _run_id(request: web.Request) -> str:
    run_id = request.match_info.get("run_id", "")
    if run_id and not _RUN_ID.fullmatch(run_id):
        raise web.HTTPNotFound
    return run_id


async def _form(request: web.Request) -> list[tuple[str, str]]:
    if request.method == "GET":
        return [(name, value) for name, value in request.query.items()]
    if (request.content_length or 0) > MAX_FORM_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_FORM_BYTES, request.content_length or 0)
    form = await request.post()
    return [(name, value) for name, value in form.items() if isinstance(value, str)]


def _variables(fields: Mapping[str, str], run_id: str) -> dict[str, Any]:
    known = {
        "caller_number": _short(fields.get("From")),
        "called_number": _short(fields.get("To")),
        "run_id": run_id,
    }
    return {name: value for name, value in known.items() if value}


def _short(value: str | None) -> str:
    return (value or "")[: twilio.MAX_ID_CHARS]


def _xml(body: str) -> web.Response:
    return web.Response(text=body, content_type="text/xml")
