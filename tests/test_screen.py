"""The start screen: for every carrier that is configured, what to paste and where."""

from __future__ import annotations

import io

import pytest

from flowcat_server.screen import Address, start_screen
from tests.callscript import loaded

ECHO = "topology: {mode: echo}\n"
ADDRESS = Address("127.0.0.1", 6210)


def rows(yaml: str) -> dict[str, str]:
    """The screen's rows by label."""
    stream = io.StringIO()
    file = loaded(ECHO + yaml)
    start_screen(stream, file, ADDRESS, [], [], "token", token_made=False, ready_s=0.1)
    found = {}
    for line in stream.getvalue().splitlines():
        label, _, text = line.strip().partition("  ")
        found[label] = text.strip()
    return found


PUBLIC = "server: {public_url: 'https://voice.example/'}\n"


@pytest.mark.parametrize(
    ("block", "title", "address"),
    [
        ("twilio: {auth_token: t}", "Twilio", "https://voice.example/telephony/answer/twilio"),
        ("plivo: {auth_token: t}", "Plivo", "https://voice.example/telephony/answer/plivo"),
        ("asterisk: {password: t}", "Asterisk", "wss://voice.example/telephony/ws/asterisk"),
        ("genesys: {client_secret: dA==}", "Genesys Cloud",
         "wss://voice.example/telephony/ws/genesys"),
        ("audiosocket: {bind: '10.0.0.1:9092', allow_from: 10.0.0.0/8}", "Asterisk AudioSocket",
         "tcp://10.0.0.1:9092"),
    ],
    ids=["twilio", "plivo", "asterisk", "genesys", "audiosocket"],
)  # fmt: skip
def test_the_address_to_paste_is_exact(block: str, title: str, address: str):
    found = rows(f"{PUBLIC}carriers: {{{block}}}\n")
    assert found[title].startswith(f"{address}  paste as ")
    assert "Twilio" not in found or title == "Twilio"


def test_without_its_key_a_carrier_is_said_to_be_served_to_this_machine_only():
    found = rows(f"{PUBLIC}carriers: {{telnyx: {{}}}}\n")
    assert found["Telnyx"] == (
        "http://127.0.0.1:6210/telephony/answer/telnyx  "
        "only from this machine: no carriers.telnyx.public_key"
    )


def test_without_a_public_address_that_is_what_is_missing():
    found = rows("carriers: {plivo: {auth_token: t}}\n")
    assert found["Plivo"].endswith("/telephony/answer/plivo  (set server.public_url)")


def test_without_any_carrier_one_shows_that_there_are_some():
    assert "telephony/answer/twilio" in rows(PUBLIC)["Twilio"]


def test_a_listener_that_has_no_address_is_off():
    found = rows("carriers: {audiosocket: {allow_from: 127.0.0.1}}\n")
    assert found["Asterisk AudioSocket"].startswith("off")
