"""What it means when our own server refuses the carrier."""

from __future__ import annotations

from flowcat_server.cli.checkup.beliefs import difference
from flowcat_server.cli.checkup.plan import Plan, Wrong
from flowcat_server.cli.checkup.web import Answered, foreign
from flowcat_server.routes import refusals


def signature_refused(answered: Answered) -> bool:
    """The server itself does not take the signature."""
    return answered.status == 403 and answered.text.strip() == refusals.SIGNATURE


def refusal(plan: Plan, answered: Answered, what: str) -> Wrong:
    """What an answer means that lets nobody in."""
    text = answered.text.strip()
    line, name = plan.line, plan.side.name
    if text == refusals.PASSWORD:
        return Wrong(
            f"the server does not take user and password of carriers.{name}",
            f"give it the same carriers.{name}.username and password as here and restart it, or "
            "have the proxy pass on the Authorization header",
        )
    if text == refusals.not_configured(line.credential):
        return _unguarded(plan)
    if text == refusals.not_allowed(name):
        return Wrong(
            f"the address from which this comes is not in carriers.{name}.allow_from",
            "call from an address that is, or add it; behind a proxy, name the proxy in "
            "server.trusted_proxies, so that not its address is looked at",
        )
    if text == refusals.REPLAYED:
        return Wrong(
            f"{what} arrived twice",
            "a proxy repeats requests: turn that off (nginx: proxy_next_upstream off)",
        )
    if text == refusals.NO_CALL:
        return Wrong(
            f"{what} arrives without what it says",
            "a proxy drops the body or the query: have it pass both on as they are",
        )
    if signature_refused(answered):
        return Wrong(
            f"the server refuses the signature of {what}",
            f"give the server the same {line.credential} as here, and restart it",
        )
    return foreign(answered, what)


def _unguarded(plan: Plan) -> Wrong:
    line = plan.line
    told = f"the server has no {line.credential}, and serves only its own machine"
    if line.account.guarded:
        return Wrong(
            told, "the agent file here has it: set it where the server runs, and restart it"
        )
    return Wrong(told, f"set {line.credential} in the agent file or the environment")


def wrong_key(plan: Plan, what: str) -> Wrong:
    """No signature is good, whatever address and time it is for."""
    line, more = plan.line, ""
    if plan.side.signs == "url" and not plan.config.server.public_url:
        more = f"; if it is the same, set server.public_url: {plan.public}"
    return Wrong(
        f"the server refuses every {what} that is signed with {line.credential}: it runs with "
        "another value of it than the agent file has here",
        f"give both the value that {line.carrier.title} shows, and restart the server{more}",
    )


def full() -> Wrong:
    """No place for a call."""
    return Wrong(
        "the server is full: it turns the call away",
        "raise limits.max_calls, or try again when calls have ended",
    )


def draining() -> Wrong:
    """It is about to stop."""
    return Wrong(
        "the server is draining: it lets its calls finish and takes no new ones",
        "wait until it has started anew, or send the carrier to another one",
    )


def skewed(ahead_s: int) -> Wrong:
    """A signature was good at another time than ours."""
    way = "ahead of" if ahead_s > 0 else "behind"
    return Wrong(
        f"the server's clock is about {abs(ahead_s)} s {way} this machine's, so that signatures "
        "seem too old",
        "set both clocks by NTP (timedatectl set-ntp true)",
    )


def believes(plan: Plan, believed: str) -> Wrong:
    """The server takes itself for another address than it was called at."""
    right = f"set server.public_url: {plan.public}"
    if plan.config.server.public_url.rstrip("/") == plan.public:
        right += " (the agent file here has it: restart the server with this file)"
    match difference(plan.public, believed):
        case "scheme":
            right += (
                ", or have the proxy send X-Forwarded-Proto and name it in server.trusted_proxies"
            )
        case "host" | "port":
            right += (
                ", or have the proxy pass on the Host header (nginx: proxy_set_header Host "
                "$http_host)"
            )
        case _:
            right += ", with the path that the proxy strips"
    return Wrong(
        f"the server believes that its address is {believed}, but it was called at "
        f"{plan.public}, which the signature covers",
        right,
    )
