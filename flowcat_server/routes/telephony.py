"""Phone calls: the carrier's webhook and its media socket."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import structlog
from aiohttp import WSCloseCode, web

from flowcat_server.calls import Calls, Incoming, Reservation
from flowcat_server.carriers import twilio
from flowcat_server.config.models import Config
from flowcat_server.core import ended
from flowcat_server.core.carrier import RestRequest, Started
from flowcat_server.errors import AuthError, CallRefused
from flowcat_server.providers.http import Http
from flowcat_server.routes import rest
from flowcat_server.routes.bodies import read_body
from flowcat_server.routes.peers import (
    Network,
    client_address,
    is_local,
    is_other_site,
    public_base,
)
from flowcat_server.routes.tokens import Once, StreamTokens
from flowcat_server.session import Session
from flowcat_server.transports.media_socket import MediaSocket
from flowcat_server.transports.pacer import Pacer
from flowcat_server.transports.websocket import WebSocketTransport, read_start

log = structlog.get_logger()

START_TIMEOUT_MS = 10_000
MAX_FORM_BYTES = 64 * 1024
MAX_FORM_FIELDS = 256
MAX_WAITING_SOCKETS = 256
MAX_WAITING_PER_ADDRESS = 32
"""Media sockets that nobody has vouched for and that have not said which call they belong to."""
REPLAY_WINDOW_S = 24 * 3600
"""A signature holds no time: a webhook is refused the second time, for as long as we remember."""
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CALL_SID = re.compile(rf"[A-Za-z0-9_.:-]{{1,{twilio.MAX_ID_CHARS}}}")
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")


@dataclass(slots=True)
class _Expected:
    """A call whose webhook was answered and whose media socket is awaited."""

    reservation: Reservation
    incoming: Incoming
    account_id: str = ""


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
        *,
        api: str = twilio.API,
    ) -> None:
        """Create the door.

        Args:
            config: Credentials and the public URL.
            calls: Where calls are admitted and run.
            tokens: Mints and checks the media sockets' tokens.
            pacer: The clock of all media sockets.
            http: For requests to the carrier.
            trusted: Proxies whose forwarded headers are believed.
            api: The carrier's REST API; regions and tests have their own.
        """
        self._calls = calls
        self._tokens = tokens
        self._pacer = pacer
        self._http = http
        self._trusted = trusted
        self._public_url = config.server.public_url
        self._account_sid = config.carriers.twilio.account_sid
        self._auth_token = config.carriers.twilio.auth_token.get_secret_value()
        self._api = api
        self._seen_webhooks = Once(REPLAY_WINDOW_S, forget_oldest=True)
        self._expected: dict[str, _Expected] = {}
        self._waiting: Counter[str] = Counter()

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        """The door's routes."""
        return [
            web.route("*", "/telephony/answer/twilio", self.answer),
            web.route("*", "/telephony/answer/twilio/{run_id}", self.answer),
            web.get("/telephony/ws/twilio", self.media, allow_head=False),
            web.get("/telephony/ws/twilio/{run_id}", self.media, allow_head=False),
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
        if not _CALL_SID.fullmatch(call_sid):
            raise web.HTTPBadRequest(text="CallSid is missing")
        self._forget_unheld()
        previous = self._expected.pop(call_sid, None)
        if previous is not None:
            previous.reservation.release()  # asked again about the same call: it keeps its place
        try:
            reservation = self._calls.reserve()
        except CallRefused:
            return _xml(twilio.busy())
        self._expected[call_sid] = _Expected(
            reservation,
            Incoming(
                channel=twilio.NAME,
                from_number=_short(fields.get("From")),
                to_number=_short(fields.get("To")),
                external_id=call_sid,
                variables=_variables(fields, run_id),
            ),
            _short(fields.get("AccountSid")),
        )
        base = public_base(request, self._public_url, self._trusted)
        url = "ws" + base.removeprefix("http") + "/telephony/ws/twilio"
        if run_id:
            url += f"/{run_id}"
        log.info("call_answered", carrier=twilio.NAME, external_id=call_sid)
        return _xml(twilio.answer(url, {"token": self._tokens.mint(twilio.NAME, call_sid)}))

    def _verify_webhook(self, request: web.Request, form: list[tuple[str, str]]) -> None:
        if not self._auth_token:
            self._only_local(request)
            return
        given = request.headers.get("X-Twilio-Signature", "")
        url = self._url(request)
        posted = form if request.method == "POST" else []
        algorithm = twilio.signature_algorithm(
            request.headers.get("X-Twilio-Webhooks-Signature-Settings", "")
        )
        if not twilio.verify(self._auth_token, given, url, posted, algorithm=algorithm):
            log.warning("webhook_refused", reason="signature", url=url)
            raise web.HTTPForbidden(text="signature does not match")
        if not self._seen_webhooks.first(given):
            log.warning("webhook_refused", reason="replayed")
            raise web.HTTPForbidden(text="replayed")

    def _only_local(self, request: web.Request) -> None:
        """Without credentials: programs of this machine, but not web pages opened on it."""
        if is_local(request, self._trusted) and not is_other_site(request):
            return
        log.warning("carrier_refused", reason="no carriers.twilio.auth_token configured")
        raise web.HTTPForbidden(text="carriers.twilio.auth_token is not configured")

    def _url(self, request: web.Request) -> str:
        """What the carrier signed. Only the path and query come from the request itself."""
        if not request.raw_path.startswith("/"):
            raise web.HTTPBadRequest(text="not a path")
        return public_base(request, self._public_url, self._trusted) + request.raw_path

    # --- the media socket -------------------------------------------------------------------

    async def media(self, request: web.Request) -> web.WebSocketResponse:
        """Authenticate the socket, find its call and run it to its end."""
        run_id = _run_id(request)
        vouched = self._verify_handshake(request)
        socket = MediaSocket()
        stream = twilio.Stream()
        with self._waits("" if vouched else client_address(request, self._trusted)):
            await socket.prepare(request)
            started = await read_start(socket, stream, START_TIMEOUT_MS)
        if started is None or started.format is None:
            log.warning("media_refused", reason="no usable start message")
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"no usable start")
            return socket
        try:
            expected = self._claim(started, run_id)
        except AuthError as error:
            log.warning("media_refused", reason=str(error))
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"refused")
            return socket
        except CallRefused as error:
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=error.reason.encode())
            return socket
        await self._run(socket, stream, started, expected)
        return socket

    def _verify_handshake(self, request: web.Request) -> bool:
        """Whether the peer is known already; if not, its stream token decides."""
        if not self._auth_token:
            self._only_local(request)
            return True
        given = request.headers.get("X-Twilio-Signature")
        if given is None:
            return False
        url = "ws" + self._url(request).removeprefix("http")
        if not twilio.verify(self._auth_token, given, url):
            log.warning("media_refused", reason="handshake signature", url=url)
            raise web.HTTPForbidden(text="signature does not match")
        return True

    @contextmanager
    def _waits(self, address: str) -> Iterator[None]:
        """Count a socket that has yet to name its call; too many of strangers are refused."""
        strangers = self._waiting.total() - self._waiting[""]
        if address and (
            strangers >= MAX_WAITING_SOCKETS or self._waiting[address] >= MAX_WAITING_PER_ADDRESS
        ):
            raise web.HTTPServiceUnavailable(text="too many sockets without a call")
        self._waiting[address] += 1
        try:
            yield
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]

    def _claim(self, started: Started, run_id: str) -> _Expected:
        token = started.parameters.get("token", "")
        if token or self._auth_token:
            self._tokens.consume(token, twilio.NAME, started.call_id)
        expected = self._expected.pop(started.call_id, None)
        if expected is not None and expected.reservation.held:
            return expected
        # A socket opened on this machine without a webhook (tests, load), or one whose webhook
        # another worker answered.
        return _Expected(
            self._calls.reserve(),
            Incoming(
                channel=twilio.NAME,
                external_id=started.call_id,
                variables={"run_id": run_id} if run_id else {},
            ),
        )

    async def _run(
        self,
        socket: MediaSocket,
        stream: twilio.Stream,
        started: Started,
        expected: _Expected,
    ) -> None:
        assert started.format is not None  # noqa: S101 - checked by `media`
        transport = WebSocketTransport(socket, stream, started.format, self._pacer)

        async def before_close(session: Session) -> None:
            if session.reason in (ended.CALLER_HUNG_UP, ended.CARRIER_CLOSED):
                return
            request = self._rest(session, started, expected)
            if request is not None:
                await rest.send(self._http, request)

        _, task = self._calls.start(
            expected.reservation,
            transport,
            expected.incoming,
            work=[("receive", transport.serve)],
            before_hang_up=before_close,
        )
        await asyncio.wait([task])

    # --- REST -------------------------------------------------------------------------------

    def _rest(self, session: Session, started: Started, expected: _Expected) -> RestRequest | None:
        """What to ask of the carrier when we end the call; None if closing the socket will do."""
        account = self._account_sid or expected.account_id or started.account_id
        if session.transfer is None:
            return None  # <Hangup/> follows <Connect>
        if not self._auth_token or not account:
            log.warning("transfer_impossible", reason="no carriers.twilio.auth_token configured")
            return None
        return twilio.transfer_request(
            account,
            self._auth_token,
            started.call_id,
            session.transfer.phone,
            session.to_number if _E164.fullmatch(session.to_number) else "",
            api=self._api,
        )

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
        return list(request.query.items())
    body = await read_body(request, MAX_FORM_BYTES)
    if request.content_type != "application/x-www-form-urlencoded":
        return []
    try:
        return parse_qsl(
            body.decode("utf-8", "replace"),
            keep_blank_values=True,
            max_num_fields=MAX_FORM_FIELDS,
        )
    except ValueError as error:
        raise web.HTTPBadRequest(text="too many fields") from error


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
