"""Who answers a call: the agent file's rules, then a webhook that may know better.

The webhook has a deadline, and whatever it does the call is answered: without an answer that can
be used, the rules' choice stands or ``routes.webhook.default`` does. Request::

    {"type": "call.incoming", "id": "<of this request>", "created_at": "2026-01-31T09:00:00+00:00",
     "call": {"external_id": "CA..", "channel": "twilio", "from_number": "+1..",
              "to_number": "+1..", "run_id": "", "headers": {"X-Team": "support"},
              "agent": "sales"},
     "agents": ["desk", "sales"]}

signed as the report of an ended call is (`records.webhook`). Answer, everything optional::

    {"agent": "sales", "variables": {"name": "Ada"}}
    {"reject": "blocked", "say": "We cannot take your call."}
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import structlog

from flowcat_server.calls import Calls
from flowcat_server.config.routes import RoutesWebhook
from flowcat_server.errors import CallRefused, FlowcatError
from flowcat_server.providers.http import Http
from flowcat_server.records.webhook import DELIVERY, SIGNATURE, sign
from flowcat_server.routes.rules import Asked, first_fit

log = structlog.get_logger()

MAX_ANSWER_BYTES = 64 * 1024
MAX_VARIABLES = 100
MAX_SAID_CHARS = 1_000
MAX_REASON_CHARS = 200
REJECTED = "rejected"
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Choice:
    """Who answers, and what they know."""

    agent: str
    variables: Mapping[str, Any] = field(default_factory=dict)


class _Answer(msgspec.Struct):
    agent: str | None = None
    variables: dict[str, Any] | None = None
    reject: str | bool | None = None
    say: str | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class _BadAnswer(FlowcatError):
    """The webhook answered with something that cannot be used."""


class Router:
    """Chooses the agent of each call from a carrier."""

    def __init__(self, calls: Calls, http: Http, clock: Callable[[], float] = time.time) -> None:
        """Route as the agent file says.

        Args:
            calls: Knows the agents, and what the file says of routes.
            http: For requests to the webhook.
            clock: Seconds since 1970, for the signature.
        """
        self._agents = calls.agents
        self._routes = calls.config.routes
        self._metrics = calls.metrics
        self._http = http
        self._clock = clock

    async def choose(self, asked: Asked) -> Choice:
        """The agent that answers.

        Raises:
            CallRefused: The webhook wants the call turned away.
        """
        rule = first_fit(self._routes.rules, asked)
        choice = Choice(self._agents.default.profile.name)
        if rule is not None:
            choice = Choice(rule.agent or choice.agent, rule.variables)
        if self._routes.webhook is not None:
            choice = await self._ask(self._routes.webhook, asked, choice)
        if len(self._agents.names) > 1:
            log.info("call_routed", external_id=asked.call_id, agent=choice.agent)
        return choice

    async def _ask(self, webhook: RoutesWebhook, asked: Asked, choice: Choice) -> Choice:
        """What the webhook says; on any failure the rules' choice, or the default."""
        begun = time.monotonic()
        try:
            answer = await self._request(webhook, self._question(asked, choice))
            decided = self._decided(answer, choice)
        except (TimeoutError, aiohttp.ClientError, OSError, _BadAnswer) as error:
            outcome = "timeout" if isinstance(error, TimeoutError) else "failed"
            reason = str(error) if isinstance(error, _BadAnswer) else type(error).__name__
            log.warning("route_webhook_failed", external_id=asked.call_id, error=reason)
            self._metrics.route_asked(outcome, time.monotonic() - begun)
            return Choice(webhook.default or choice.agent, choice.variables)
        outcome = REJECTED if isinstance(decided, CallRefused) else "answered"
        self._metrics.route_asked(outcome, time.monotonic() - begun)
        if isinstance(decided, CallRefused):
            self._metrics.call_refused(REJECTED)
            log.info("call_rejected", external_id=asked.call_id, detail=decided.detail)
            raise decided
        return decided

    def _question(self, asked: Asked, choice: Choice) -> bytes:
        question = {
            "type": "call.incoming",
            "id": secrets.token_hex(12),
            "created_at": datetime.fromtimestamp(int(self._clock()), UTC).isoformat(),
            "call": {
                "external_id": asked.call_id,
                "channel": asked.carrier,
                "from_number": asked.from_number,
                "to_number": asked.to_number,
                "run_id": asked.run_id,
                "headers": dict(asked.headers),
                "agent": choice.agent,
            },
            "agents": list(self._agents.names),
        }
        return json.dumps(question, separators=(",", ":")).encode()

    async def _request(self, webhook: RoutesWebhook, body: bytes) -> _Answer:
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            DELIVERY: json.loads(body)["id"],
        }
        secret = webhook.secret.get_secret_value()
        if secret:
            headers[SIGNATURE] = sign(secret, body, int(self._clock()))
        timeout = aiohttp.ClientTimeout(total=webhook.timeout / 1000)
        async with self._http.session.post(
            webhook.url, data=body, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            if response.status == 204:
                return _Answer()
            if response.status != 200:
                raise _BadAnswer(f"HTTP {response.status}")
            said = bytearray()
            async for piece in response.content.iter_any():
                said += piece
                if len(said) > MAX_ANSWER_BYTES:
                    raise _BadAnswer(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        try:
            return _decode(bytes(said))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise _BadAnswer(" ".join(str(error).split())[:MAX_REASON_CHARS]) from error

    def _decided(self, answer: _Answer, choice: Choice) -> Choice | CallRefused:
        if answer.reject:
            why = answer.reject if isinstance(answer.reject, str) else ""
            say = (answer.say or "")[:MAX_SAID_CHARS]
            return CallRefused(REJECTED, say=say, detail=why[:MAX_REASON_CHARS])
        agent = answer.agent or choice.agent
        if self._agents.get(agent) is None:
            raise _BadAnswer(f"there is no agent {agent[:60]!r}")
        variables = answer.variables or {}
        if len(variables) > MAX_VARIABLES:
            raise _BadAnswer(f"more than {MAX_VARIABLES} variables")
        wrong = next((name for name in variables if not _VARIABLE.fullmatch(name)), None)
        if wrong is not None:
            raise _BadAnswer(f"{wrong[:60]!r} cannot be a variable's name")
        return Choice(agent, {**choice.variables, **variables})
