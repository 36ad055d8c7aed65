"""A caller who cannot be taken: busy, or a sentence that the carrier speaks itself."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from plivo import plivoxml
from twilio.twiml.voice_response import VoiceResponse

from flowcat_server.carriers import telnyx
from flowcat_server.config.load import load_text
from flowcat_server.core.carrier import Account, Ringing
from flowcat_server.errors import ConfigError
from tests.carriers.kit import carrier_named
from tests.fakes.doors import doors
from tests.fakes.peers import PEERS, Peer, ring

TEXT = 'Alle Leitungen <sind> "belegt" & zu.\x00'
HEARD = TEXT.rstrip("\x00")
FULL = "limits: {max_calls: 1, when_full: {say: 'SAY', language: de-DE}}\n"
WORDLESS = {"exotel": "its applet is given an address or none, and goes on with the flow"}


def said(peer: Peer, answer: str) -> tuple[str, str]:
    """What an answer speaks, and in which language."""
    if peer.name == "vonage":
        (talk,) = json.loads(answer)
        assert talk["action"] == "talk"
        return talk["text"], talk["language"]
    if peer.name == "jambonz":
        say, decline = json.loads(answer)
        assert (say["verb"], say["earlyMedia"], decline["status"]) == ("say", True, 486)
        return say["text"], say["synthesizer"]["language"]
    verb, hangup = ET.fromstring(answer)
    assert verb.tag in ("Say", "Speak", "SpeakSentence")
    assert hangup.tag == "Hangup"
    language = verb.attrib.get("language") or verb.attrib.get("locale", "")
    return verb.text or "", language.replace("_", "-")


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
async def test_the_carrier_speaks_for_a_full_server(tmp_path: Path, peer: Peer):
    text = "Alle Leitungen sind belegt & zu."
    async with doors(tmp_path, peer.yaml + FULL.replace("SAY", text)) as house:
        assert (await ring(house, peer, peer.new_call())).status == 200
        rung = await ring(house, peer, peer.new_call())
        if peer.name in WORDLESS:
            assert peer.is_busy(rung.status, rung.text)
        else:
            assert rung.status == 200
            assert said(peer, rung.text) == (text, "de-DE")
        assert house.calls.count == 1


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
async def test_the_carrier_speaks_for_a_draining_server_too(tmp_path: Path, peer: Peer):
    async with doors(tmp_path, peer.yaml + FULL.replace("SAY", "Wir sind gleich da.")) as house:
        house.calls.draining = True
        rung = await ring(house, peer, peer.new_call())
        spoken = peer.name not in WORDLESS
        assert ("Wir sind gleich da." in rung.text) is spoken
        assert house.calls.count == 0


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_whatever_is_to_be_said_stays_text(peer: Peer):
    document = carrier_named(peer.name).say(Account(), Ringing("c1"), TEXT, "de-DE")
    if document is None:
        assert peer.name in WORDLESS
        return
    heard, language = said(peer, document.body)
    assert heard.rstrip("\x00") == HEARD
    assert language == "de-DE"
    quiet = carrier_named(peer.name).say(Account(), Ringing("c1"), "Hi", "")
    assert quiet is not None
    assert "anguage" not in quiet.body
    assert "locale" not in quiet.body


def test_the_documents_are_the_vendors_own():
    call = Ringing("c1")
    twilio = VoiceResponse()
    twilio.say("Busy & gone", language="de-DE")
    twilio.hangup()
    ours = carrier_named("twilio").say(Account(), call, "Busy & gone", "de-DE")
    assert ours is not None
    assert canonical(ours.body) == canonical(str(twilio))
    response = plivoxml.ResponseElement()
    response.add(plivoxml.SpeakElement("Busy & gone", language="de-DE"))
    response.add(plivoxml.HangupElement())
    ours = carrier_named("plivo").say(Account(), call, "Busy & gone", "de-DE")
    assert ours is not None
    assert canonical(ours.body) == canonical(response.to_string())


def canonical(document: str) -> str:
    return ET.canonicalize(document, strip_text=True)


def test_a_call_that_is_answered_through_the_api_gets_the_busy_signal():
    carrier = carrier_named("telnyx")
    call = Ringing("v3:1", account_id=telnyx.CALL_CONTROL)
    assert carrier.say(Account(), call, "Busy", "") is None


@pytest.mark.parametrize(
    ("written", "say"), [("busy", ""), ("{say: Later.}", "Later."), ("{}", ""), ("", "")]
)
def test_busy_is_short_for_saying_nothing(written: str, say: str):
    text = f"topology: {{mode: echo}}\nlimits: {{when_full: {written}}}\n"
    config = load_text(text, Path("agent.yaml"), environ={}).config
    assert config.limits.when_full.say == say


def test_other_words_are_a_clear_mistake():
    text = "topology: {mode: echo}\nlimits: {when_full: hang_up}\n"
    with pytest.raises(
        ConfigError, match=r'when_full: must be busy, or a block.*; found "hang_up"'
    ):
        load_text(text, Path("agent.yaml"), environ={})
