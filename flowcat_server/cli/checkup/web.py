"""Requests of the carrier, and what it means when something other than our server answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from yarl import URL

from flowcat_server.cli.checkup.plan import Plan, Wrong
from flowcat_server.cli.far_side.model import Asked, shown

MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answered:
    """What a request was answered."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    text: str
    ms: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    """If it is a JSON object."""

    @property
    def server(self) -> str:
        """Who says that it answered."""
        return self.headers.get("server", "")

    @property
    def skew_s(self) -> int:
        """How far its clock is ahead of ours; 0 where it tells no time."""
        try:
            then = parsedate_to_datetime(self.headers.get("date", ""))
        except ValueError:
            return 0
        return int(then.timestamp() - time.time())


async def send(
    plan: Plan, web: aiohttp.ClientSession, asked: Asked, headers: Mapping[str, str]
) -> Answered:
    """Send a request to the server. Raises `Wrong` if there is no answer."""
    kind = {"Content-Type": asked.content_type} if asked.content_type else {}
    url = URL(plan.url + asked.path, encoded=True)
    begun = time.monotonic()
    try:
        async with (
            asyncio.timeout(plan.answer_s),
            web.request(
                asked.method,
                url,
                data=asked.body or None,
                headers={**kind, **headers},
                allow_redirects=False,
            ) as response,
        ):
            body = await response.content.read(MAX_ANSWER_BYTES)
            ms = int((time.monotonic() - begun) * 1000)
            names = {name.lower(): value for name, value in response.headers.items()}
            text = body.decode("utf-8", "replace")
            return Answered(response.status, names, text, ms, _fields(text))
    except TimeoutError as error:
        raise Wrong(
            f"{plain(asked)} is not answered within {plan.answer_s:.0f} s",
            "a proxy waits in vain, or holds the answer back: look whether the server runs where "
            "the proxy looks for it, and turn response buffering off",
        ) from error
    except aiohttp.ClientResponseError as error:
        raise Wrong(
            f"what listens at {plan.url} speaks no HTTP that could be read",
            "look what listens there: it is not flowcat-server",
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise Wrong(
            f"{plain(asked)}: the connection was closed without an answer",
            "look whether the server runs, and whether the proxy before it finds it",
        ) from error


def _fields(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def plain(asked: Asked) -> str:
    """A request, as people write it."""
    return f"{asked.method} {asked.path.partition('?')[0]}"


def foreign(answered: Answered, what: str) -> Wrong:
    """What an answer means that our server never gives: something else gave it."""
    who = answered.server or "what is before the server"
    error = answered.headers.get("ngrok-error-code", "")
    if error:
        return Wrong(
            f"the tunnel answers {what} itself ({error})",
            "start the tunnel anew to the port of server.bind, and set server.public_url to the "
            "address that it shows",
        )
    if answered.headers.get("cf-mitigated"):
        return Wrong(
            f"Cloudflare asks {what} to prove that it is no machine",
            "make a rule there that skips the bot check for /telephony/",
        )
    match answered.status:
        case 301 | 302 | 303 | 307 | 308:
            return Wrong(
                f"{what} is redirected to {answered.headers.get('location', 'elsewhere')}",
                "give the carrier, and server.public_url, the final address: signatures cover it",
            )
        case 401 | 407:
            return Wrong(
                f"{who} asks {what} for a password of its own",
                "let /telephony/ through without it: the server proves by itself who calls",
            )
        case 403:
            return Wrong(
                f"{who} refuses {what} before it reaches the server",
                "let /telephony/ through its access rules or firewall",
            )
        case 404 | 405:
            return Wrong(
                f"{who} has no such address: {what} does not reach the server",
                "have the proxy pass on all of /telephony/, with its path as it is",
            )
        case 413:
            return Wrong(
                f"{who} finds {what} too long",
                "raise its limit on bodies to 64 kB (nginx: client_max_body_size)",
            )
        case 429:
            return Wrong(
                f"{who} limits how often it may be asked",
                "except /telephony/ from the limit: a burst of calls comes from one address",
            )
        case 502 | 503 | 504 | 520 | 521 | 522 | 523 | 524 | 530:
            return Wrong(
                f"{who} answers {what} with {answered.status}: it does not find the server",
                "start flowcat-server, or correct where the proxy looks for it (server.bind)",
            )
        case 500:
            return Wrong(f"{what} failed inside (500)", "look at the server's log")
    return Wrong(
        f"{what} was answered {answered.status} {shown(answered.text)}",
        "this is no answer of flowcat-server: look at what is before it",
    )
