"""The carrier's webhooks: signed, answered, and what a refusal means."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp

from flowcat_server.cli.checkup.beliefs import addresses, difference, offsets
from flowcat_server.cli.checkup.plan import Plan, Told, Wrong
from flowcat_server.cli.checkup.refused import (
    believes,
    draining,
    full,
    refusal,
    signature_refused,
    skewed,
    wrong_key,
)
from flowcat_server.cli.checkup.web import Answered, foreign, plain, send
from flowcat_server.cli.far_side.model import Asked, Place, Unexpected, shown

MARK = "doctor=1"
"""A query that no carrier sends: whether it arrives is part of what a signature covers."""


@dataclass(slots=True)
class Webhooks:
    """Asks the server, as the carrier would."""

    plan: Plan
    web: aiohttp.ClientSession

    # --- is it there? -----------------------------------------------------------------------

    async def server(self) -> Told:
        """Whether flowcat-server answers, and takes calls. Raises `Wrong`."""
        health = await self._get("/healthz")
        if health.status != 200 or "version" not in health.fields:
            return await self._hidden(health)
        told = Told(f"flowcat-server {health.fields['version']}, live calls: "
                    f"{health.fields.get('calls', '?')}")  # fmt: skip
        ready = await self._get("/readyz")
        match ready.fields.get("status"):
            case "full":
                raise full()
            case "draining":
                raise draining()
        return told

    async def _get(self, path: str) -> Answered:
        return await send(self.plan, self.web, Asked("GET", path), {})

    async def _hidden(self, health: Answered) -> Told:
        """Something else answers, or the proxy passes only some paths on."""
        parts = urlsplit(self.plan.url)
        if parts.path and health.status == 404:
            above = replace(self.plan, url=f"{parts.scheme}://{parts.netloc}")
            found = await send(above, self.web, Asked("GET", "/healthz"), {})
            if "version" in found.fields:
                raise Wrong(
                    f"the server lies at {above.url}, not under {parts.path}",
                    "take the path out of server.public_url, or have the proxy strip it before "
                    "it passes requests on",
                )
        if health.status in range(300, 400) or health.status >= 500:
            raise foreign(health, "GET /healthz")
        who = health.server or "something else"
        told = Told(f"{who} answers /healthz itself ({health.status})")
        told.warnings.append(
            Wrong(
                "whether flowcat-server runs behind it cannot be told",
                "have the proxy pass on /healthz and /readyz too, at least to your own machines",
            )
        )
        return told

    # --- the webhook ------------------------------------------------------------------------

    async def ring(self) -> tuple[Told, Place | None]:
        """A signed webhook, and where its answer leads. Raises `Wrong`.

        No place: the webhook arrives, but only the carrier itself can sign it.
        """
        plan = self.plan
        asked = plan.side.webhook(plan.call)
        if plan.side.signs == "url":
            asked = _marked(asked)
        answered = await self._send(asked)
        if signature_refused(answered) and not plan.side.can_sign and plan.line.account.webhook_key:
            return Told(
                f"arrives, and is refused unsigned as it should be: only {self.title} has the key "
                "to sign it, so the call goes on without an answer"
            ), None
        told = Told("")
        if signature_refused(answered):
            answered = await self._unmarked(answered, told)
        if answered.status == 404 and urlsplit(plan.url).path:
            raise Wrong(
                f"{plain(asked)} is not known under {urlsplit(plan.url).path}",
                "have the proxy strip that path before it passes requests on, and keep it in "
                "server.public_url",
            )
        place = self._place(answered, plain(asked))
        told.detail = f"{plain(asked)} is answered in {answered.ms} ms"
        return told, place

    @property
    def title(self) -> str:
        """The carrier, as people write it."""
        return self.plan.line.carrier.title

    async def _send(self, asked: Asked, public: str = "", ahead_s: int = 0) -> Answered:
        """Signed for an address, ours unless another is given."""
        plan = self.plan
        headers = plan.side.sign(
            asked,
            (public or plan.public) + asked.path,
            plan.line.account,
            int(time.time()) + ahead_s,
        )
        return await send(plan, self.web, asked, headers)

    def _place(self, answered: Answered, what: str) -> Place:
        plan, side, text = self.plan, self.plan.side, answered.text
        if side.is_busy(answered.status, text):
            raise full()
        if answered.status != 200:
            raise refusal(plan, answered, what)
        try:
            place = side.place(text)
        except Unexpected as error:
            raise Wrong(
                f"{what} is answered with {error}",
                "this is no answer of flowcat-server: look at what is before it",
            ) from error
        self.judge(place)
        return place

    # --- refused ----------------------------------------------------------------------------

    async def _unmarked(self, refused: Answered, told: Told) -> Answered:
        """Why a signature is refused: what would be accepted says what arrives. Raises `Wrong`."""
        plan = self.plan
        if plan.side.signs == "body":
            await self._other_clock(refused.skew_s)
            raise await self._no_signature()
        asked = plan.side.webhook(plan.call)
        answered = await self._send(asked)
        if not signature_refused(answered):
            told.warnings.append(
                Wrong(
                    "the proxy strips or changes what stands behind the ? of an address",
                    "pass the query on as it is (nginx: proxy_pass without a path of its own, or "
                    "$request_uri)",
                )
            )
            if plan.line.carrier.ticket_in == "query":
                raise told.warnings[-1]
            return answered
        for public in addresses(plan.public, plan.config):
            answered = await self._send(asked, public)
            if not signature_refused(answered):
                await self._give_back(public)
                raise believes(plan, self._believed(answered, public))
        raise await self._no_signature()

    def _believed(self, answered: Answered, public: str) -> str:
        """The address that the server believes to have: its answer says it best."""
        try:
            url = self.plan.side.place(answered.text).url
        except Unexpected:
            return public
        base, found, _ = url.partition("/telephony/ws/")
        return "http" + base.removeprefix("ws") if found else public

    async def _other_clock(self, skew_s: int) -> None:
        """Whether a signature would be good at another time. Raises `Wrong`."""
        asked = self.plan.side.webhook(self.plan.call)
        for ahead_s in offsets(skew_s):
            if not signature_refused(await self._send(asked, ahead_s=ahead_s)):
                await self._give_back(ahead_s=ahead_s)
                raise skewed(ahead_s)

    async def _give_back(self, public: str = "", ahead_s: int = 0) -> None:
        """A webhook that was accepted after all took a place: the call is over."""
        if self.plan.side.reports:
            await self._send(self.plan.side.status(self.plan.call), public, ahead_s)

    async def _body_changes(self) -> bool:
        """Whether a webhook without a body is accepted."""
        plan = self.plan
        asked = plan.side.webhook(plan.call)
        if asked.method != "POST":
            return False
        fields = _flat(asked)
        got = Asked("GET", f"{asked.path}?{urlencode(fields)}")
        return not signature_refused(await self._send(got))

    async def _no_signature(self) -> Wrong:
        """None is accepted, whatever the server believes to be."""
        if await self._body_changes():
            return Wrong(
                "the body of the webhook is changed on the way: without one the signature fits",
                "have the proxy, or the firewall in it, pass bodies on byte by byte",
            )
        return wrong_key(self.plan, "webhook")

    # --- the answer -------------------------------------------------------------------------

    def judge(self, place: Place) -> None:
        """Whether a carrier could go where the answer sends it. Raises `Wrong`."""
        plan = self.plan
        expected = "ws" + plan.public.removeprefix("http")
        base, found, _ = place.url.partition("/telephony/ws/")
        if not found:
            raise Wrong(
                f"the answer leads to {shown(place.url)}, which is no media socket of ours",
                "something changes the answer on its way: look at what is before the server",
            )
        if base == expected:
            return
        where = "http" + base.removeprefix("ws")
        if difference(plan.public, where) == "scheme":
            raise Wrong(
                f"the answer sends {self.title} to {base}, without TLS",
                f"set server.public_url: {plan.public}, or have the proxy send X-Forwarded-Proto "
                "and name it in server.trusted_proxies",
            )
        raise Wrong(
            f"the answer sends {self.title} to {base}, but it called at {plan.public}",
            f"set server.public_url: {plan.public}",
        )

    # --- status -----------------------------------------------------------------------------

    async def status(self) -> Told:
        """The call is over, says the carrier. Raises `Wrong`."""
        plan = self.plan
        asked = plan.side.status(plan.call)
        answered = await self._send(asked)
        if signature_refused(answered) and not plan.side.can_sign and plan.line.account.webhook_key:
            return Told("arrives, and is refused unsigned as it should be")
        if answered.status not in (200, 204):
            raise refusal(plan, answered, plain(asked))
        return Told(f"{plain(asked)} is taken")


def _marked(asked: Asked) -> Asked:
    """A webhook whose address has one query more."""
    return replace(asked, path=asked.path + ("&" if "?" in asked.path else "?") + MARK)


def _flat(asked: Asked) -> dict[str, str]:
    """What a webhook says."""
    if asked.content_type.startswith("application/json"):
        return {name: str(value) for name, value in json.loads(asked.body).items()}
    return dict(parse_qsl(asked.body.decode()))
