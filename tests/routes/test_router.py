"""Who answers: rules by number, carrier and header, and the webhook that may know better."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.config.routes import Routes, Rule
from flowcat_server.core import ended
from flowcat_server.records.webhook import SIGNATURE, verify
from flowcat_server.routes.rules import Asked, first_fit, matches
from tests.fakes import genesys
from tests.fakes.audiosocket import listening
from tests.fakes.desk import desk
from tests.fakes.doors import ECHO, Doors, doors
from tests.fakes.peers import PEERS, SWITCHES, Peer, Place, media, ring
from tests.routes.test_audiosocket import connected

AGENTS = {"sales": ECHO, "support": ECHO}
SECRET = "shared between us"
TWILIO = PEERS[0]

# --- rules ----------------------------------------------------------------------------------------


def rule(**given: Any) -> Rule:
    return Rule.model_validate({"agent": "sales", **given})


def asked(**given: Any) -> Asked:
    return Asked(**{"carrier": "twilio", "call_id": "CA1", **given})


@pytest.mark.parametrize(
    ("pattern", "number", "fits"),
    [
        ("+442071838750", "+442071838750", True),
        ("+44 20 7183-8750", "+442071838750", True),
        ("442071838750", "+442071838750", True),
        ("+4420*", "+442071838750", True),
        ("+4420*", "+441612345678", False),
        ("*8750", "+442071838750", True),
        ("+44*38*50", "+442071838750", True),
        ("+44*38*50", "+442071838751", False),
        ("*", "", True),
        ("", "", True),
        ("+44", "", False),
        ("anonymous", "Anonymous", True),
        ("desk", "sip:desk@example.com;transport=tcp", True),
        ("desk@example.com", "sips:desk@example.com", True),
        ("*@example.com", "sip:desk@example.com", True),
        ("desk@other.example", "sip:desk@example.com", False),
        ("tel:+1555", "+1555", True),
    ],
)
def test_numbers_are_compared_as_people_write_them(pattern: str, number: str, *, fits: bool):
    assert (first_fit([rule(to=pattern)], asked(to_number=number)) is not None) is fits
    assert (first_fit([rule(**{"from": pattern})], asked(from_number=number)) is not None) is fits


def test_everything_that_a_rule_gives_has_to_fit_and_the_first_counts():
    rules = [
        rule(carrier=["plivo", "vobiz"], to="+1*", agent="one"),
        rule(carrier="plivo", header={"X-Team": "sup*"}, agent="two"),
        rule(carrier="plivo", agent="three"),
        rule(header={"x-team": "SUPPORT", "X-Vip": "*"}, agent="four"),
    ]

    def found(**given: Any) -> str:
        fit = first_fit(rules, asked(**given))
        return fit.agent if fit is not None else ""

    assert found(carrier="vobiz", to_number="+15550100") == "one"
    assert found(carrier="plivo", to_number="+4420", headers={"X-TEAM": "Support"}) == "two"
    assert found(carrier="plivo", to_number="+4420", headers={"X-Team": "sales"}) == "three"
    assert found(carrier="vobiz", to_number="+4420") == ""
    assert found(headers={"X-Team": "support"}) == ""
    assert found(headers={"X-Team": "support", "X-Vip": ""}) == "four"


@given(st.text("ab*", max_size=12), st.text("ab", max_size=30))
def test_a_pattern_matches_what_its_stars_can_be_filled_in_to(pattern: str, text: str):
    def slowly(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return any(slowly(pattern[1:], text[at:]) for at in range(len(text) + 1))
        return text[:1] == pattern[0] and slowly(pattern[1:], text[1:])

    assert matches(pattern, text) is slowly(pattern, text)


def test_a_hostile_number_costs_no_more_than_its_length():
    pattern, number = "*a" * 30 + "b", "a" * 100_000
    begun = time.process_time()
    assert not matches(pattern, number)
    assert time.process_time() - begun < 0.1


# --- calls ----------------------------------------------------------------------------------------


def routing(peer: Peer, routes: str) -> str:
    return f"{peer.yaml}{routes}"


async def answered(house: Doors, peer: Peer, place: Place, call: str) -> tuple[str, dict[str, Any]]:
    """Who answered a call that has a place, and what they were told."""
    async with media(house, peer, call, place) as leg:
        await leg.say(peer.frame)
        assert (await leg.hears(len(peer.frame)))[: len(peer.frame)] == peer.frame
        (session,) = house.calls.live.values()
    await house.settled(0)
    record = await house.store.get_call(session.id)
    assert record is not None
    assert record.summary.agent == session.agent_name
    return session.agent_name, dict(record.variables)


RULES = """\
routes:
  rules:
    - {to: "+1555 0199", from: "+1 555 0100", agent: sales, variables: {team: night}}
"""


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
async def test_a_rule_picks_the_agent_of_every_carrier_with_a_webhook(tmp_path: Path, peer: Peer):
    async with doors(tmp_path, routing(peer, RULES), agents=AGENTS) as house:
        call = peer.new_call()
        rung = await ring(house, peer, call)
        agent, variables = await answered(house, peer, peer.place(rung.text), call)
        assert (agent, variables["team"]) == ("sales", "night")
        assert variables["caller_number"] == "+15550100"
        counted = house.metrics.render()[0].decode()
        assert (
            f'flowcat_agent_calls_total{{agent="sales",reason="{ended.CALLER_HUNG_UP}"}} 1.0'
            in (counted)
        )


@pytest.mark.parametrize("peer", SWITCHES, ids=lambda peer: peer.name)
async def test_a_rule_picks_the_agent_of_a_switch_that_asks_nothing(tmp_path: Path, peer: Peer):
    rules = f"routes:\n  rules: [{{carrier: {peer.name}, agent: support}}]\n"
    async with doors(tmp_path, routing(peer, rules), agents=AGENTS) as house:
        place = Place(f"/telephony/ws/{peer.name}")
        assert (await answered(house, peer, place, peer.new_call()))[0] == "support"


async def test_without_a_rule_that_fits_the_files_own_agent_answers(tmp_path: Path):
    rules = "routes:\n  rules: [{carrier: plivo, agent: sales}]\n"
    async with doors(tmp_path, routing(TWILIO, rules), agents=AGENTS) as house:
        call = TWILIO.new_call()
        place = TWILIO.place((await ring(house, TWILIO, call)).text)
        assert (await answered(house, TWILIO, place, call))[0] == "test"


async def test_a_channels_variable_or_the_sockets_address_picks_a_switchs_agent(tmp_path: Path):
    rules = "routes:\n  rules: [{header: {TEAM: support}, agent: support}]\n"
    asterisk, freeswitch = SWITCHES
    (tmp_path / "b").mkdir()
    async with doors(tmp_path, routing(asterisk, rules), agents=AGENTS) as house:
        call = asterisk.new_call()
        start = {
            "event": "MEDIA_START", "connection_id": "c", "channel": "n", "channel_id": call,
            "format": "ulaw", "optimal_frame_size": 160, "channel_variables": {"TEAM": "support"},
        }  # fmt: skip
        url = f"{house.url}/telephony/ws/asterisk"
        options: Any = {"headers": asterisk.socket_headers, "protocols": asterisk.subprotocols}
        async with house.client.ws_connect(url, **options) as socket:
            await socket.send_json(start)
            await house.settled(1)
            (session,) = house.calls.live.values()
            assert session.agent_name == "support"
    async with doors(tmp_path / "b", routing(freeswitch, rules), agents=AGENTS) as house:
        place = Place("/telephony/ws/freeswitch?team=support")
        assert (await answered(house, freeswitch, place, freeswitch.new_call()))[0] == "support"


async def test_genesys_input_variables_pick_the_agent(tmp_path: Path):
    rules = "routes:\n  rules: [{to: '+1 555 0199', header: {team: support}, agent: support}]\n"
    async with doors(tmp_path, genesys.YAML + rules, agents=AGENTS) as house:
        headers = genesys.signed(house.clock.now)
        async with house.client.ws_connect(house.url + genesys.PATH, headers=headers) as socket:
            await genesys.Client(socket).open(inputVariables={"team": "support"})
            await house.settled(1)
            (session,) = house.calls.live.values()
            assert session.agent_name == "support"


async def test_an_audiosocket_call_is_routed_by_its_carrier(tmp_path: Path):
    async with desk({"variables": {"name": "Ada"}}) as there:
        rules = "{carrier: audiosocket, agent: sales}"
        yaml = ECHO + asking(there.url, rules=rules)
        async with (
            doors(tmp_path, yaml, agents=AGENTS) as house,
            listening(house) as address,
            connected(address) as switch,
        ):
            await switch.start()
            await house.settled(1)
            (session,) = house.calls.live.values()
            assert session.agent_name == "sales"
            about = json.loads(there.requests[0][1])["call"]
            assert (about["channel"], about["agent"]) == ("audiosocket", "sales")


HEADERS = [
    ("twilio", {"SipHeader_X-Team": "support"}),
    ("signalwire", {"SipHeader_X-Team": "support"}),
    ("telnyx", {"SipHeader_X-Team": "support"}),
    ("vonage", {"SipHeader_X-Team": "support"}),
    ("jambonz", {"sip": {"headers": {"X-Team": "support"}}}),
    ("bandwidth", {"X-Team": "support"}),
]


@pytest.mark.parametrize(("name", "fields"), HEADERS, ids=[name for name, _ in HEADERS])
async def test_a_sip_header_picks_the_agent(tmp_path: Path, name: str, fields: dict[str, Any]):
    peer = next(peer for peer in PEERS if peer.name == name)
    rules = "routes:\n  rules: [{header: {x-team: support}, agent: support}]\n"
    async with doors(tmp_path, routing(peer, rules), agents=AGENTS) as house:
        call = peer.new_call()
        rung = await ring(house, peer, call, "", **fields)
        assert (await answered(house, peer, peer.place(rung.text), call))[0] == "support"


async def test_a_parameter_of_the_address_picks_the_agent(tmp_path: Path):
    rules = "routes:\n  rules: [{header: {team: support}, agent: support}]\n"
    async with doors(tmp_path, routing(TWILIO, rules), agents=AGENTS) as house:
        rung = await house.ring("CA1", path="/telephony/answer/twilio?team=support", sign=False)
        assert rung.status == 403
        asked = TWILIO.webhook("CA1")
        path = asked.path + "?team=support"
        headers = TWILIO.sign(asked, "https://voice.example" + path, 0)
        headers["Content-Type"] = asked.content_type
        async with house.client.post(house.url + path, data=asked.body, headers=headers) as answer:
            place = TWILIO.place(await answer.text())
        assert (await answered(house, TWILIO, place, "CA1"))[0] == "support"


# --- the webhook ----------------------------------------------------------------------------------


def asking(url: str, more: str = "", rules: str = "", timeout: str = "5s") -> str:
    return (
        f"routes:\n  rules: [{rules}]\n"
        f"  webhook: {{url: '{url}', secret: '{SECRET}', timeout: {timeout}{more}}}\n"
    )


def outcomes(house: Doors) -> dict[str, int]:
    name = "flowcat_route_webhook_duration_seconds_count"
    found = {}
    for line in house.metrics.render()[0].decode().splitlines():
        if line.startswith(name) and not line.endswith(" 0.0"):
            found[line.partition('outcome="')[2].partition('"')[0]] = int(float(line.split()[-1]))
    return found


async def test_the_webhook_is_asked_signed_and_picks_agent_and_variables(tmp_path: Path):
    rules = "{carrier: twilio, agent: sales, variables: {team: night, a: 1}}"
    async with desk({"agent": "support", "variables": {"name": "Ada", "a": [2]}}) as there:
        yaml = routing(TWILIO, asking(there.url, rules=rules))
        async with doors(tmp_path, yaml, agents=AGENTS) as house:
            call = TWILIO.new_call()
            rung = await ring(house, TWILIO, call, "run-7", **{"SipHeader_X-Team": "a<b"})
            agent, variables = await answered(house, TWILIO, TWILIO.place(rung.text), call)
            assert agent == "support"
            told = {name: variables[name] for name in ("team", "name", "a")}
            assert told == {"team": "night", "name": "Ada", "a": [2]}
            ((headers, body),) = there.requests
            assert verify(SECRET, headers[SIGNATURE], body, int(house.clock.now))
            asked = json.loads(body)
            assert headers["X-Flowcat-Delivery"] == asked["id"]
            assert asked["type"] == "call.incoming"
            assert asked["agents"] == ["test", "sales", "support"]
            assert asked["call"].pop("headers")["X-Team"] == "a<b"
            assert asked["call"] == {
                "external_id": call, "channel": "twilio", "from_number": "+15550100",
                "to_number": "+15550199", "run_id": "run-7", "agent": "sales",
            }  # fmt: skip
            assert outcomes(house) == {"answered": 1}


@pytest.mark.parametrize("peer", SWITCHES, ids=lambda peer: peer.name)
async def test_a_switch_that_asks_nothing_is_routed_when_its_socket_starts(
    tmp_path: Path, peer: Peer
):
    async with (
        desk({"agent": "support"}) as there,
        doors(tmp_path, routing(peer, asking(there.url)), agents=AGENTS) as house,
    ):
        call = peer.new_call()
        place = Place(f"/telephony/ws/{peer.name}")
        assert (await answered(house, peer, place, call))[0] == "support"
        assert json.loads(there.requests[0][1])["call"]["external_id"] == call


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def trickle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 16_384)


BAD: dict[str, Any] = {
    "silent": silent,
    "trickle": trickle,
    "endless": endless,
    "status": web.Response(status=500),
    "redirect": web.Response(status=302, headers={"Location": "/elsewhere"}),
    "text": web.Response(text="sales"),
    "list": ["sales"],
    "types": {"agent": 7},
    "unknown agent": {"agent": "nobody"},
    "deep": web.Response(text='{"variables":{"a":' + "[" * 60_000),
    "many variables": {"variables": {f"v{n}": n for n in range(101)}},
    "odd names": {"variables": {"_today": "2020-01-01"}},
    "long names": {"variables": {"a" * 65: 1}},
    "surrogates": web.Response(text='{"agent":"\\ud800"}'),
}


@pytest.mark.parametrize("how", BAD)
async def test_a_webhook_without_a_usable_answer_delays_a_call_and_no_more(
    tmp_path: Path, how: str
):
    rules = "{carrier: twilio, agent: sales, variables: {team: night}}"
    slow = how in ("silent", "trickle")
    timeout = "300ms" if slow else "5s"
    async with desk(BAD[how]) as there:
        yaml = routing(TWILIO, asking(there.url, rules=rules, timeout=timeout))
        async with doors(tmp_path, yaml, agents=AGENTS) as house:
            call = TWILIO.new_call()
            async with asyncio.timeout(5):
                rung = await ring(house, TWILIO, call)
            agent, variables = await answered(house, TWILIO, TWILIO.place(rung.text), call)
            assert (agent, variables["team"]) == ("sales", "night")
            assert outcomes(house) == {"timeout" if slow else "failed": 1}


async def test_nobody_listening_is_no_answer_and_the_default_stands(tmp_path: Path):
    yaml = routing(TWILIO, asking("http://127.0.0.1:9/", ", default: support"))
    async with doors(tmp_path, yaml, agents=AGENTS) as house:
        call = TWILIO.new_call()
        rung = await ring(house, TWILIO, call)
        assert (await answered(house, TWILIO, TWILIO.place(rung.text), call))[0] == "support"
        assert outcomes(house) == {"failed": 1}


@pytest.mark.parametrize("answer", [None, {}, web.Response(status=204), {"agent": None}])
async def test_an_empty_answer_leaves_it_to_the_rules(tmp_path: Path, answer: Any):
    empty = {} if answer is None else answer
    async with desk(empty) as there:
        rules = "{carrier: twilio, agent: sales}"
        yaml = routing(TWILIO, asking(there.url, ", default: support", rules))
        async with doors(tmp_path, yaml, agents=AGENTS) as house:
            call = TWILIO.new_call()
            rung = await ring(house, TWILIO, call)
            assert (await answered(house, TWILIO, TWILIO.place(rung.text), call))[0] == "sales"
            assert outcomes(house) == {"answered": 1}


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
async def test_a_rejected_caller_hears_busy_and_gives_the_place_back(tmp_path: Path, peer: Peer):
    limits = "limits: {when_full: {say: All lines are busy.}}\n"
    async with desk({"reject": "blocked"}) as there:
        yaml = routing(peer, asking(there.url)) + limits
        async with doors(tmp_path, yaml, agents=AGENTS) as house:
            rung = await ring(house, peer, peer.new_call())
            assert peer.is_busy(rung.status, rung.text), rung
            assert "All lines" not in rung.text or peer.name == "vonage"
            assert house.calls.count == 0
            counted = house.metrics.render()[0].decode()
            assert 'flowcat_calls_refused_total{reason="rejected"} 1.0' in counted
            assert outcomes(house) == {"rejected": 1}


async def test_a_rejected_caller_can_be_told_why(tmp_path: Path):
    async with (
        desk({"reject": True, "say": "We <cannot> take your call & sorry."}) as there,
        doors(tmp_path, routing(TWILIO, asking(there.url)), agents=AGENTS) as house,
    ):
        rung = await ring(house, TWILIO, TWILIO.new_call())
        assert "<Say>We &lt;cannot&gt; take your call &amp; sorry.</Say><Hangup/>" in rung.text


@pytest.mark.parametrize("peer", SWITCHES, ids=lambda peer: peer.name)
async def test_a_rejected_switch_is_told_to_hang_up(tmp_path: Path, peer: Peer):
    async with (
        desk({"reject": "no"}) as there,
        doors(tmp_path, routing(peer, asking(there.url)), agents=AGENTS) as house,
    ):
        place = Place(f"/telephony/ws/{peer.name}")
        async with media(house, peer, peer.new_call(), place) as leg:
            first = await leg.socket.receive(timeout=5)
            assert "HANGUP" in first.data or "disconnect" in first.data
            assert await leg.closed() == 1013
        assert house.calls.count == 0


async def test_places_are_counted_before_anybody_is_asked(tmp_path: Path):
    """The one above the limit costs no request to the webhook, and no more places are given."""
    hold = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await hold.wait()
        return web.json_response({"agent": "sales"})

    async with desk(slow) as there:
        yaml = routing(TWILIO, asking(there.url))
        yaml += "limits: {max_calls: 3}\n"
        async with doors(tmp_path, yaml, agents=AGENTS) as house:
            calls = [TWILIO.new_call() for _ in range(6)]
            rings = [asyncio.create_task(ring(house, TWILIO, call)) for call in calls]
            done, waiting = await asyncio.wait(rings, timeout=1)
            assert [TWILIO.is_busy(200, task.result().text) for task in done] == [True] * 3
            assert (len(waiting), house.calls.count, len(there.requests)) == (3, 3, 3)
            hold.set()
            texts = [(await task).text for task in waiting]
            assert all("<Connect>" in text for text in texts)


async def test_a_call_that_ends_while_its_agent_is_chosen_gives_its_place_back(tmp_path: Path):
    async with (
        desk(silent) as there,
        doors(
            tmp_path, routing(TWILIO, asking(there.url, timeout="300ms")), agents=AGENTS
        ) as house,
    ):
        ringing = asyncio.create_task(ring(house, TWILIO, "CA1"))
        await asyncio.wait_for(there.asked.wait(), 2)
        over = TWILIO.webhook("CA1", CallStatus="canceled")
        path = "/telephony/status/twilio"
        headers = TWILIO.sign(over, "https://voice.example" + path, 0)
        headers["Content-Type"] = over.content_type
        async with house.client.post(house.url + path, data=over.body, headers=headers) as told:
            assert told.status == 204
        assert house.calls.count == 0
        rung = await ringing
        assert TWILIO.is_busy(rung.status, rung.text)
        assert house.calls.count == 0


async def test_a_carrier_that_gives_up_on_us_gives_the_place_back(tmp_path: Path):
    """Its request breaks while the webhook is being asked."""
    async with desk(silent) as there:
        yaml = routing(TWILIO, asking(there.url))
        async with doors(tmp_path, yaml, agents=AGENTS) as house:
            ringing = asyncio.create_task(ring(house, TWILIO, "CA1"))
            await asyncio.wait_for(there.asked.wait(), 2)
            assert house.calls.count == 1
            ringing.cancel()
            await asyncio.sleep(0.5)
            place = TWILIO.place((await ring(house, TWILIO, "CA1", CallStatus="again")).text)
            assert house.calls.count == 1
            assert (await answered(house, TWILIO, place, "CA1"))[0] == "test"


def test_the_default_timeout_is_a_second():
    routes = Routes.model_validate({"webhook": {"url": "https://x"}})
    assert routes.webhook is not None
    assert routes.webhook.timeout == 1_000
