"""``POST /api/calls``: somebody asks the server to call a number."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from flowcat_server.calls import Calls
from flowcat_server.config.outbound import Machine
from flowcat_server.config.types import Duration
from flowcat_server.errors import CallNotMade, CallRefused
from flowcat_server.routes.bodies import read_body
from flowcat_server.routes.outbound import Order, OutboundCalls

log = structlog.get_logger()

MAX_BODY_BYTES = 64 * 1024
IDEMPOTENCY_KEY = "Idempotency-Key"
"""A header: the same request is not to be done twice, however often it is sent."""
MAX_KEYS = 10_000
"""Idempotency keys that are remembered; the oldest are forgotten first."""
MAX_KEY_CHARS = 255
FULL_WAIT_S = 5
"""When to ask again of a server that is full."""
_STATUS = {
    "number_not_allowed": 403,
    "carrier_refused": 502,
    "too_many": 429,
    "key_reused": 409,
    "no_public_url": 409,
    "no_carrier": 409,
    "no_credentials": 409,
    "no_from_number": 409,
}
"""What else is asked for wrongly is 422."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]


class CallRequest(BaseModel):
    """The body of the request."""

    model_config = ConfigDict(extra="forbid")

    to: str = Field(max_length=64)
    from_: str = Field(default="", alias="from", max_length=64)
    carrier: str = Field(default="", max_length=64)
    agent: str = Field(default="", max_length=64)
    variables: dict[Name, Any] = Field(default_factory=dict, max_length=100)
    machine: dict[str, Any] | None = None
    """Keys of ``outbound.machine`` that are to be otherwise in this call."""
    timeout: Annotated[Duration, Field(ge=5_000, le=120_000)] | None = None


@dataclass(slots=True)
class _Made:
    """What came of a request that had an idempotency key."""

    digest: bytes
    answer: asyncio.Task[tuple[int, dict[str, Any]]]


class DiallingDoor:
    """The door. It stands beside `ApiDoor`, which shows and ends calls whoever made them."""

    def __init__(self, calls: Calls, outbound: OutboundCalls) -> None:
        """Create the door.

        Args:
            calls: For the agents that there are.
            outbound: Makes the calls.
        """
        self._calls = calls
        self._outbound = outbound
        self._made: OrderedDict[str, _Made] = OrderedDict()

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        """The door's routes."""
        return [web.post("/api/calls", self.call)]

    async def call(self, request: web.Request) -> web.Response:
        """Make a call: 201 with its id when the carrier dials."""
        body = await read_body(request, MAX_BODY_BYTES)
        key = request.headers.get(IDEMPOTENCY_KEY, "")
        if len(key) > MAX_KEY_CHARS:
            return _response(
                422,
                {"error": "invalid_request", "message": f"{IDEMPOTENCY_KEY}: over {MAX_KEY_CHARS}"},
            )
        if not key:
            return _response(*await self._answer(body))
        digest = hashlib.sha256(body).digest()
        made = self._made.get(key)
        if made is None:
            task = self._outbound.spawn("request", self._answer(body))
            made = self._made[key] = _Made(digest, task)
            while len(self._made) > MAX_KEYS:
                self._made.popitem(last=False)
        elif made.digest != digest:
            error = CallNotMade(
                "key_reused", f"this {IDEMPOTENCY_KEY} was used for another request"
            )
            return _response(*_failure(error))
        status, answer = await asyncio.shield(made.answer)
        if status in (429, 503) and self._made.get(key) is made:
            del self._made[key]  # nothing was done: the same request may be tried again
        return _response(status, answer)

    async def _answer(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer. Never raises what a client can cause."""
        try:
            order = self._read(body)
            placed = await self._outbound.place(order)
        except CallNotMade as error:
            return _failure(error)
        except CallRefused as error:
            message = {
                "full": "All places are taken (limits.max_calls).",
                "draining": "The server is about to stop.",
            }.get(error.reason, error.reason)
            return 503, {
                "error": error.reason,
                "message": message,
                "retry_after": FULL_WAIT_S if error.reason == "full" else 0,
            }
        except Exception:  # the task is the server's: it must not end it
            log.exception("call_request_failed")
            return 500, {"error": "server_error", "message": "A fault in the server; see its log."}
        return 201, {
            "id": placed.id,
            "status": placed.status,
            "to": order.to,
            "carrier": placed.line.carrier.name,
            "external_id": placed.external_id,
        }

    def _read(self, body: bytes) -> Order:
        try:
            asked = CallRequest.model_validate_json(body)
        except ValidationError as error:
            raise _invalid(error) from error
        machine = None
        if asked.machine is not None:
            parts = self._calls.agents.get(asked.agent) or self._calls.agents.default
            usual = parts.config.outbound.machine.model_dump()
            try:
                machine = Machine.model_validate({**usual, **asked.machine})
            except ValidationError as error:
                raise _invalid(error, "machine") from error
        return Order(
            to=asked.to.strip(),
            from_number=asked.from_.strip(),
            carrier=asked.carrier,
            agent=asked.agent,
            variables=asked.variables,
            machine=machine,
            ring_ms=asked.timeout,
        )


def _invalid(error: ValidationError, under: str = "") -> CallNotMade:
    """The first thing that is wrong with a request."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(filter(None, (under, *(str(part) for part in first["loc"]))))
    told = str(first["msg"]).removeprefix("Value error, ")
    return CallNotMade("invalid_request", f"{field or 'body'}: {told}", field=field)


def _failure(error: CallNotMade) -> tuple[int, dict[str, Any]]:
    said = {"field": error.field, "id": error.call_id, "retry_after": error.wait_s}
    body = {"error": error.code, "message": error.message}
    return _STATUS.get(error.code, 422), {
        **body,
        **{name: value for name, value in said.items() if value},
    }


def _response(status: int, body: dict[str, Any]) -> web.Response:
    wait_s = body.get("retry_after")
    headers = {"Retry-After": str(wait_s)} if wait_s else {}
    return web.json_response(body, status=status, headers=headers)
