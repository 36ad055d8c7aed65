"""What callers and carriers name themselves stays a value, wherever it goes, for every carrier."""

from __future__ import annotations

import io
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from yarl import URL

from flowcat_server import carriers, logs
from flowcat_server.carriers._values import number
from flowcat_server.core.carrier import Account, Request, Ringing, Started
from flowcat_server.core.templates import render
from tests.carriers.kit import HOSTILE, carrier_named
from tests.fakes.doors import API_TOKEN, doors
from tests.fakes.peers import PEERS, SWITCHES, Peer, Place, media, ring

SENDABLE = [each for each in HOSTILE if each != "\ud800"]
"""JSON and forms are read strictly: no half of a surrogate pair gets past them."""
EVERYTHING = "+1555" + "".join(each[:60] for each in SENDABLE)
"""In one caller's number."""
FIELDS = {
    "plivo": "From", "vobiz": "From", "exotel": "CallFrom", "vonage": "from", "jambonz": "from",
    "bandwidth": "from",
}  # fmt: skip
hostile = pytest.mark.parametrize("value", SENDABLE)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the server's log writes."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure("debug", "console")
    yield stream
    monkeypatch.undo()
    logs.configure()


def harmless(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9+*#.:;=@_~-]*", text) is not None


@pytest.mark.parametrize("peer", [*PEERS, *SWITCHES], ids=lambda peer: peer.name)
async def test_a_callers_number_means_nothing_anywhere(
    tmp_path: Path, peer: Peer, written: io.StringIO
):
    async with doors(tmp_path, peer.yaml, recorded=True) as house:
        call = peer.new_call()
        if peer in SWITCHES:
            place = Place(f"/telephony/ws/{peer.name}")
        else:
            answered = await ring(house, peer, call, **{FIELDS.get(peer.name, "From"): EVERYTHING})
            assert answered.status == 200
            assert "Dial" not in answered.text
            place = peer.place(answered.text)
        named = {"caller_number": EVERYTHING, "from": EVERYTHING, "k": EVERYTHING}
        async with media(house, peer, call, place, **named) as leg:
            await leg.say(peer.frame)
            await leg.hears(len(peer.frame))
        await house.settled(0)
        await house.free()
        (found,) = await house.store.list_calls()
        assert harmless(found.from_number)
        assert found.from_number.startswith("+1555")
        record = await house.store.get_call(found.id)
        assert record is not None
        assert record.variables["caller_number"] == found.from_number
        files = [file for file in (tmp_path / "calls").rglob("*") if file.suffix == ".wav"]
        assert [file.stem for file in files] == [found.id]
        bearer = {"Authorization": f"Bearer {API_TOKEN}"}
        async with house.client.get(
            f"{house.url}/api/calls/{found.id}", headers=bearer
        ) as response:
            assert response.content_type == "application/json"
            assert (await response.json())["call"]["from_number"] == found.from_number
    for line in written.getvalue().splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d|  \| ", line), line
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", written.getvalue())


@hostile
@pytest.mark.parametrize("peer", [*PEERS, *SWITCHES], ids=lambda peer: peer.name)
def test_parameters_of_a_socket_are_no_templates(peer: Peer, value: str):
    stream = peer.stream(peer.new_call(), {"token": value, "k": value, "call_id": "c1"})
    ours = carrier_named(peer.name).open(Account(), Request("GET", "wss://a.example/ws"))
    fed = [ours.feed(message, isinstance(message, bytes)) for message in stream.start()]
    begun = [each for each in fed if isinstance(each, Started)]
    for each in begun[0].parameters.values():
        assert len(each) <= 1024
        assert render("{{k}}", {"k": each, "token": "secret", "HOME": "secret"}) == each


@hostile
@pytest.mark.parametrize("name", [peer.name for peer in PEERS])
def test_documents_and_requests_keep_values_values(name: str, value: str):
    carrier = carrier_named(name)
    account = Account(id=value, secret="s", webhook_key="k", api="https://api.example")
    call = Ringing("call-1", value, value, value)
    url = f"wss://voice.example/telephony/ws/{name}"
    for written in (
        carrier.answer(account, call, url, {"token": value}),
        carrier.busy(account, call),
    ):
        body = written.body.encode().decode()
        if written.content_type in ("text/xml", "application/xml"):
            tags = {each.tag for each in ET.fromstring(body).iter()}
            assert tags <= {
                "Response", "Connect", "Stream", "Parameter", "Hangup", "Reject", "StartStream",
                "StreamParam", "StopStream",
            }  # fmt: skip
        elif body and written.content_type == "application/json":
            json.loads(body)


@hostile
def test_ids_do_not_leave_their_place_in_an_api_request(value: str):
    from flowcat_server.core.carrier import LiveCall

    for name in carriers.names():
        carrier = carrier_named(name)
        account = Account(id=value, secret="s", api="https://api.example", options={})
        live = LiveCall(value, value, value)
        for request in (
            carrier.hang_up(account, live, 0),
            carrier.transfer(account, live, "+15550111", 0),
        ):
            if request is None:
                continue
            assert request.url.startswith("https://api.example/")
            path = request.url.removeprefix("https://api.example")
            assert re.fullmatch(r"[A-Za-z0-9_.~%/-]+", path)
            assert "/../" not in path
            assert "\n" not in json.dumps([request.form, request.json, dict(request.headers)])


@hostile
def test_a_number_is_what_numbers_are_made_of(value: str):
    assert harmless(number(f"+1{value}"))
    assert len(number(value)) <= 128


def test_numbers_that_are_none_are_kept():
    for known in ("+15550100", "anonymous", "sip:alice@example.com:5060;user=phone", "*67", "12#"):
        assert number(known) == known


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
async def test_a_call_with_such_an_id_is_refused(tmp_path: Path, peer: Peer):
    async with doors(tmp_path, peer.yaml) as house:
        for value in SENDABLE:
            rung = await ring(house, peer, value)
            assert rung.status == 400, value
            assert value not in rung.text
            assert house.calls.count == 0


async def test_a_run_id_is_plain(tmp_path: Path):
    async with doors(tmp_path, PEERS[0].yaml) as house:
        for value in SENDABLE:
            for door in ("answer", "ws"):
                address = f"{house.url}/telephony/{door}/twilio/{quote(value, safe='')}"
                async with house.client.get(URL(address, encoded=True)) as response:
                    assert response.status in (400, 404), value
                    assert value not in await response.text()


def test_the_page_makes_no_markup_of_anything():
    scripts = list(Path("web").rglob("*.js"))
    assert scripts
    for script in scripts:
        text = script.read_text()
        assert not re.search(
            r"(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(", text
        ), script
