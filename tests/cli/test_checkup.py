"""The doctor calls the real doors, directly and through proxies that do something wrong."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from flowcat_server.cli.far_side import SIDES
from flowcat_server.routes import telephony
from tests.callscript import VOICE
from tests.cli.visits import (
    BASIC,
    BLOCKS,
    CLIENT_SECRET,
    SECRET,
    SERVED,
    fault,
    house,
    plan,
    told,
    yaml,
)
from tests.fakes.audiosocket import listening
from tests.fakes.certificates import Authority
from tests.fakes.doors import ECHO
from tests.fakes.proxy import Proxy, proxied

# --- as it should be ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SERVED if name != "audiosocket"])
async def test_a_whole_call_of_each_carrier(tmp_path: Path, name: str):
    async with house(tmp_path, name) as opened:
        steps = await told(plan(name, opened.url))
        assert all(step.status != "fault" for step in steps), steps
        names = [step.name for step in steps if step.status == "ok"]
        asked = ["webhook"] if SIDES[name].asks else []
        over = ["status"] if SIDES[name].reports else []
        assert names == [
            "name", "connection", "server", *asked, "media", "greeting", "call", "hang-up", *over,
        ]  # fmt: skip
        talk = next(step for step in steps if step.name == "call")
        assert re.search(r"0\.[4-9] s heard|[1-9]\.\d s heard", talk.detail)
        await opened.settled(0)
        assert opened.calls.count == 0
        (call,) = await opened.store.list_calls()
        assert call.channel == name


async def test_a_whole_call_over_tcp(tmp_path: Path):
    async with house(tmp_path, "audiosocket") as opened, listening(opened) as (host, port):
        steps = await told(plan("audiosocket", f"tcp://{host}:{port}"))
        assert [step.name for step in steps if step.status == "ok"] == [
            "name", "media", "greeting", "call", "hang-up",
        ]  # fmt: skip
        await opened.settled(0)


async def test_what_only_the_carrier_can_sign_is_refused_and_that_is_right(tmp_path: Path):
    async with house(tmp_path, "telnyx") as opened:
        steps = await told(plan("telnyx", opened.url))
        assert [(step.name, step.status) for step in steps if step.status != "warning"] == [
            (name, "ok")
            for name in ("name", "connection", "server", "webhook", "media", "messages", "status")
        ]
        assert opened.calls.count == 0


@pytest.mark.parametrize("proxy", [Proxy(), Proxy(adds={"X-Forwarded-Proto": "http"})])
async def test_a_proxy_that_does_well(tmp_path: Path, proxy: Proxy):
    async with house(tmp_path, "twilio") as opened, proxied(proxy) as url:
        proxy.to = opened.url
        steps = await told(plan("twilio", url))
        assert all(step.status != "fault" for step in steps), steps


# --- each mistake has its sentence ----------------------------------------------------------------


async def test_a_host_that_does_not_exist():
    (step,) = await told(plan("twilio", "https://nowhere.invalid"))
    assert (step.name, step.status) == ("name", "fault")
    assert step.detail == "DNS knows no nowhere.invalid"


async def test_nothing_listens():
    *_, step = await told(plan("twilio", "http://127.0.0.1:9"))
    assert step.detail == "nothing listens at 127.0.0.1:9"


@pytest.mark.parametrize("name", ["twilio", "plivo", "vobiz", "signalwire"])
async def test_the_public_address_is_not_set_and_the_proxy_sends_its_own_host(
    tmp_path: Path, name: str
):
    step = await fault(tmp_path, name, Proxy(host="127.0.0.1:6210"))
    assert step.name == "webhook"
    assert "believes that its address is http://127.0.0.1:6210, but it was called" in step.detail
    assert re.search(r"set server\.public_url: http://127\.0\.0\.1:\d+, .* Host", step.advice)


@pytest.mark.parametrize(("name", "behind"), [("twilio", 0), ("vonage", 3600)])
async def test_a_place_that_was_taken_by_trying_is_given_back(
    tmp_path: Path, name: str, behind: int
):
    proxy = Proxy(host="" if behind else "127.0.0.1:6210")
    async with house(tmp_path, name) as opened, proxied(proxy) as url:
        proxy.to = opened.url
        opened.clock.now -= behind
        *_, step = await told(plan(name, url))
        assert step.status == "fault"
        assert opened.calls.count == 0


async def test_the_public_address_is_another_one(tmp_path: Path):
    other = "server: {public_url: 'https://old.example'}\n"
    step = await fault(
        tmp_path, "twilio", Proxy(),
        server=yaml("twilio", more=other), mine=yaml("twilio", more=other),
    )  # fmt: skip
    assert "believes that its address is https://old.example, but" in step.detail


async def test_the_port_is_in_what_the_server_believes(tmp_path: Path):
    step = await fault(tmp_path, "twilio", Proxy(host="127.0.0.1:8443"))
    assert "believes that its address is http://127.0.0.1:8443" in step.detail


async def test_a_path_that_the_proxy_strips_is_missing_in_the_public_address(tmp_path: Path):
    step = await fault(tmp_path, "twilio", Proxy(strips="/voice"), path="/voice")
    assert re.search(r"believes that its address is http://127\.0\.0\.1:\d+, but", step.detail)
    assert re.search(r"set server\.public_url: http://127.0.0.1:\d+/voice, with the path",
                     step.advice)  # fmt: skip


async def test_a_path_that_the_proxy_does_not_strip(tmp_path: Path):
    step = await fault(tmp_path, "twilio", Proxy(), path="/voice")
    assert "not under /voice" in step.detail
    assert "strip it" in step.advice


async def test_the_scheme_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    authority = Authority("the tests' own")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.trusted(tmp_path)))
    for name, words in (
        ("twilio", r"believes that its address is http://127"),
        ("vonage", r"the answer sends Vonage to ws://127\.0\.0\.1:\d+, without TLS"),
    ):
        proxy = Proxy()
        async with (
            house(tmp_path / name, name) as opened,
            proxied(proxy, authority.context(tmp_path)) as url,
        ):
            proxy.to = opened.url
            *_, step = await told(plan(name, url))
        assert re.search(words, step.detail), step
        assert "X-Forwarded-Proto" in step.advice
        assert "server.trusted_proxies" in step.advice


async def test_over_tls_with_all_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    authority = Authority("the tests' own")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.trusted(tmp_path)))
    proxy = Proxy(adds={"X-Forwarded-Proto": "https"})
    file = yaml("twilio", more="server: {trusted_proxies: [127.0.0.1]}\n")
    async with (
        house(tmp_path, "twilio", file) as opened,
        proxied(proxy, authority.context(tmp_path)) as url,
    ):
        proxy.to = opened.url
        steps = await told(plan("twilio", url))
    assert all(step.status != "fault" for step in steps), steps


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("expired", "the certificate has expired"),
        ("self-signed", "signed by nobody whom carriers trust (self-signed)"),
        ("other-host", "the certificate is for another name than 127.0.0.1"),
        ("incomplete", "the chain of the certificate is incomplete"),
        ("plain", "speaks no TLS"),
    ],
)
async def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str):
    root = Authority("the tests' own")
    between = Authority("between", root)
    stranger = Authority("127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(root.trusted(tmp_path)))
    tls = {
        "expired": lambda: root.context(tmp_path, days=-1),
        "self-signed": lambda: stranger.context(tmp_path, chain=(stranger,)),
        "other-host": lambda: root.context(tmp_path, host="other.example"),
        "incomplete": lambda: between.context(tmp_path),
        "plain": lambda: None,
    }[kind]()
    async with proxied(Proxy(), tls) as url:
        *_, step = await told(plan("twilio", url.replace("http://", "https://")))
    assert (step.name, step.status) == ("connection", "fault")
    assert words in step.detail, step


async def test_a_certificate_that_ends_soon_is_worth_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = Authority("the tests' own")
    monkeypatch.setenv("SSL_CERT_FILE", str(root.trusted(tmp_path)))
    async with proxied(Proxy(), root.context(tmp_path, days=3)) as url:
        steps = await told(plan("twilio", url))
    assert any("the certificate is good only until" in step.detail for step in steps)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("twilio", "carriers.twilio.auth_token"),
        ("signalwire", "carriers.signalwire.signing_key"),
        ("plivo", "carriers.plivo.auth_token"),
        ("vonage", "carriers.vonage.signature_secret"),
        ("jambonz", "carriers.jambonz.webhook_secret"),
        ("genesys", "carriers.genesys.client_secret"),
    ],
)
async def test_another_key_than_the_servers(tmp_path: Path, name: str, key: str):
    other = BLOCKS[name].replace("_secret: s", "_secret: t").replace("_token: s", "_token: t")
    other = other.replace("_key: s", "_key: t").replace(
        CLIENT_SECRET, b64encode(b"another one").decode()
    )
    step = await fault(tmp_path, name, Proxy(), mine=yaml(name, other))
    assert re.search(rf"refuses every (webhook|handshake) that is signed with {key}", step.detail)


@pytest.mark.parametrize("name", ["exotel", "cloudonix", "bandwidth", "asterisk", "freeswitch"])
async def test_another_password_or_none_that_arrives(tmp_path: Path, name: str):
    other = BASIC.replace("password: s", "password: t")
    for proxy, mine in ((Proxy(), other), (Proxy(drops=("authorization",)), None)):
        step = await fault(tmp_path, name, proxy, mine=yaml(name, mine))
        assert step.detail == f"the server does not take user and password of carriers.{name}"
        assert "Authorization header" in step.advice


async def test_the_server_runs_without_the_key(tmp_path: Path):
    step = await fault(
        tmp_path, "twilio", Proxy(adds={"X-Forwarded-For": "203.0.113.9"}),
        server=yaml("twilio", ""),
    )  # fmt: skip
    assert step.detail.startswith("the server has no carriers.twilio.auth_token")
    assert "restart it" in step.advice


async def test_an_address_that_is_not_allowed(tmp_path: Path):
    step = await fault(
        tmp_path, "twilio", Proxy(), server=yaml("twilio", "allow_from: [192.0.2.1]")
    )
    assert "not in carriers.twilio.allow_from" in step.detail


@pytest.mark.parametrize("name", ["plivo", "vobiz"])
async def test_a_query_that_is_stripped_where_the_token_is_in_it(tmp_path: Path, name: str):
    step = await fault(tmp_path, name, Proxy(keeps_query=False))
    assert "strips" in step.detail
    assert "$request_uri" in step.advice


async def test_a_query_that_is_stripped_where_none_is_needed_is_a_warning(tmp_path: Path):
    proxy = Proxy(keeps_query=False)
    async with house(tmp_path, "twilio") as opened, proxied(proxy) as url:
        proxy.to = opened.url
        steps = await told(plan("twilio", url))
    assert all(step.status != "fault" for step in steps), steps
    assert any("behind the ? of an address" in step.detail for step in steps)


@pytest.mark.parametrize(
    ("name", "words"),
    [("exotel", "arrives without what it says"), ("freeswitch", "arrives without the query")],
)
async def test_a_query_that_is_stripped_where_the_call_is_in_it(
    tmp_path: Path, name: str, words: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(telephony, "START_TIMEOUT_MS", 300)
    step = await fault(tmp_path, name, Proxy(keeps_query=False))
    assert words in step.detail


@pytest.mark.parametrize("name", [name for name in SERVED if name != "audiosocket"])
async def test_the_upgrade_is_dropped(tmp_path: Path, name: str):
    step = await fault(tmp_path, name, Proxy(upgrades=False))
    assert step.name == "media"
    assert "drops the Upgrade header" in step.detail
    assert "proxy_set_header Upgrade" in step.advice


@pytest.mark.parametrize("name", ["asterisk", "jambonz"])
async def test_the_subprotocol_is_dropped(tmp_path: Path, name: str):
    step = await fault(tmp_path, name, Proxy(protocols=False))
    assert "lost its subprotocol" in step.detail


@pytest.mark.parametrize("name", ["twilio", "plivo"])
async def test_the_body_is_changed(tmp_path: Path, name: str):
    field = {"twilio": "CallSid", "plivo": "CallUUID"}[name]
    step = await fault(tmp_path, name, Proxy(body=f"{field}=other&From=%2B1".encode()))
    assert "body of the webhook is changed" in step.detail


@pytest.mark.parametrize(("name", "behind"), [("vonage", 3600), ("jambonz", -7200)])
async def test_clocks_that_differ(tmp_path: Path, name: str, behind: int):
    async with house(tmp_path, name) as opened:
        opened.clock.now -= behind
        *_, step = await told(plan(name, opened.url))
    assert re.search(rf"clock is about \d+ s {'behind' if behind > 0 else 'ahead of'}", step.detail)
    assert "NTP" in step.advice


async def test_a_clock_that_is_half_a_minute_off_is_too_much_for_genesys(tmp_path: Path):
    async with house(tmp_path, "genesys") as opened:
        opened.clock.now += 30
        *_, step = await told(plan("genesys", opened.url))
    assert "s ahead of this machine's" in step.detail, step


async def test_genesys_signs_the_address_too(tmp_path: Path):
    step = await fault(tmp_path, "genesys", Proxy(host="127.0.0.1:6210"))
    assert "believes that its address is http://127.0.0.1:6210" in step.detail


async def test_a_full_server(tmp_path: Path):
    file = yaml("twilio", more="limits: {max_calls: 1}\n")
    async with house(tmp_path, "twilio", file) as opened:
        opened.calls.reserve()
        *_, step = await told(plan("twilio", opened.url))
    assert (step.name, step.status) == ("server", "fault")
    assert "full" in step.detail
    assert "limits.max_calls" in step.advice


@pytest.mark.parametrize("name", [name for name in SERVED if name != "audiosocket"])
async def test_a_full_server_that_does_not_say_so(tmp_path: Path, name: str):
    file = yaml(name, more="limits: {max_calls: 1}\n")
    async with house(tmp_path, name, file) as opened, proxied(Proxy(opened.url, passes="/telephony/")) as url:  # fmt: skip # noqa: E501
        opened.calls.reserve()
        *_, step = await told(plan(name, url))
    assert step.detail == "the server is full: it turns the call away", step


async def test_a_draining_server(tmp_path: Path):
    async with house(tmp_path, "twilio") as opened:
        await opened.calls.drain(1)
        *_, step = await told(plan("twilio", opened.url))
    assert "draining" in step.detail


async def test_the_proxy_does_not_find_the_server(tmp_path: Path):
    async with proxied(Proxy("http://127.0.0.1:9")) as url:
        *_, step = await told(plan("twilio", url))
    assert "502: it does not find the server" in step.detail


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (web.Response(status=301, headers={"Location": "https://other.example/"}), "redirected to"),
        (web.Response(status=401, text="who?"), "asks POST .* for a password of its own"),
        (web.Response(status=403, text="no"), "refuses POST .* before it reaches the server"),
        (web.Response(status=403, headers={"cf-mitigated": "challenge"}), "Cloudflare asks"),
        (web.Response(status=404, headers={"ngrok-error-code": "ERR_NGROK_3200"}), "ERR_NGROK"),
        (web.Response(status=413), "too long"),
        (web.Response(status=429), "limits how often"),
        (
            web.Response(status=200, text="<h1>Welcome to nginx!</h1>"),
            "a document without Connect/Stream",
        ),
    ],
)
async def test_something_else_answers(answer: web.Response, words: str):
    async with proxied(Proxy(answers=answer)) as url:
        *_, step = await told(plan("twilio", url))
    assert step.status == "fault"
    assert re.search(words, step.detail), step


async def test_only_the_webhook_is_passed_on(tmp_path: Path):
    step = await fault(tmp_path, "twilio", Proxy(passes="/telephony/answer"))
    assert "passes on /telephony/answer/ but not /telephony/ws/" in step.detail


async def test_nothing_is_passed_on(tmp_path: Path):
    step = await fault(tmp_path, "twilio", Proxy(passes="/api"))
    assert "does not reach the server" in step.detail


async def test_requests_that_are_repeated(tmp_path: Path):
    step = await fault(tmp_path, "jambonz", Proxy(repeats=True))
    assert "arrived twice" in step.detail


async def test_a_proxy_that_never_answers(tmp_path: Path):
    async with proxied(Proxy(hangs=True)) as url:
        *_, step = await told(plan("twilio", url, answer_s=0.3))
    assert "is not answered within" in step.detail


async def test_a_proxy_that_buffers_the_socket(tmp_path: Path):
    step = await fault(tmp_path, "twilio", Proxy(holds=True), greeting_s=0.5)
    assert step.name == "greeting"
    assert "nothing comes through it" in step.detail
    assert "proxy_buffering off" in step.advice


async def test_a_proxy_that_is_slow(tmp_path: Path):
    proxy = Proxy(delays_s=0.05)  # of each message, so that they pile up
    step = await fault(tmp_path, "vonage", proxy, hold_s=4.0, greeting_s=4.0)
    assert "there and back: something holds them back" in step.detail


async def test_a_proxy_that_cuts_calls_off(tmp_path: Path):
    step = await fault(tmp_path, "twilio", Proxy(cuts_after_s=0.8), hold_s=3.0)
    assert re.search(r"cut off after 0\.\d s, without a word", step.detail), step
    assert "proxy_read_timeout" in step.advice


async def test_a_proxy_with_a_limit_on_messages(tmp_path: Path):
    step = await fault(tmp_path, "twilio", Proxy(longest=8192))
    assert "a message of 32 kB ended the call" in step.detail
    assert "64 kB" in step.advice


async def test_an_agent_that_says_nothing(tmp_path: Path):
    silent = yaml("twilio").replace(
        ECHO,
        "agent: {prompt: p}\n"
        "topology: {mode: cascaded, stt: scripted, llm: scripted, tts: scripted, vad: scripted}\n",
    )
    step = await fault(
        tmp_path, "twilio", Proxy(), server=yaml("twilio"), mine=silent, greeting_s=0.5
    )
    assert step.detail.startswith("only silence is heard"), step


class Balancer(Proxy):
    """Webhooks and media sockets go to different servers."""

    other = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if "/ws/" in request.path:
            return await Proxy(self.other).handle(request)
        return await super().handle(request)


TALKING = (
    "agent: {prompt: p, greeting: Hello there.}\n"
    "topology:\n"
    "  {mode: cascaded, llm: scripted, tts: scripted, vad: scripted,\n"
    "  stt: {provider: scripted, options: {lines: [Hello.], loop: true}}}\n"
    f"carriers: {{twilio: {{auth_token: {SECRET}}}}}\n"
)


async def test_an_agent_that_greets_and_answers(tmp_path: Path):
    async with house(tmp_path, "twilio", TALKING) as opened:
        made = replace(plan("twilio", opened.url, TALKING), speech=VOICE * 40, greeting_s=8.0)
        steps = await told(made)
        assert all(step.status != "fault" for step in steps), steps
        talk = next(step for step in steps if step.name == "call")
        assert re.search(r"answered after \d+ ms", talk.detail)
        assert "given back" in talk.detail


async def test_an_agent_that_does_not_answer(tmp_path: Path):
    async with house(tmp_path, "twilio", TALKING) as opened:
        made = replace(plan("twilio", opened.url, TALKING), speech=bytes(640), greeting_s=2.0)
        *_, step = await told(made)
    assert step.detail == "what was said is not answered within 2 s"
    assert "stt, llm, tts" in step.advice


async def test_tokens_of_another_server(tmp_path: Path):
    async with house(tmp_path / "1", "twilio") as one, house(tmp_path / "2", "twilio") as two:
        two.tokens._secret = b"of its own"
        balancer = Balancer(one.url)
        balancer.other = two.url
        async with proxied(balancer) as url:
            *_, step = await told(plan("twilio", url))
    assert step.detail == "the server does not know the token that its own answer gave"
    assert "to the same server" in step.advice


async def test_an_address_that_audiosocket_does_not_let_in(tmp_path: Path):
    closed = yaml("audiosocket", "allow_from: [192.0.2.1]")
    async with house(tmp_path, "audiosocket") as opened, listening(opened, closed) as (host, port):
        *_, step = await told(plan("audiosocket", f"tcp://{host}:{port}"))
    assert "the connection was closed after" in step.detail
    assert "carriers.audiosocket.allow_from" in step.advice
