"""Exotel: the webhook that names the socket, and messages of the right size."""

from __future__ import annotations

import json

import pytest

from flowcat_server.carriers import exotel
from flowcat_server.core.audio import MULAW_8K, PCM_8K, PCM_16K, PCM_24K, AudioFormat
from flowcat_server.core.carrier import Account, LiveCall, Request, Ringing

CARRIER = exotel.CARRIER


def test_the_answer_is_the_sockets_address():
    request = Request("GET", "", {}, b"", [("CallSid", "c1"), ("CallFrom", "+1"), ("CallTo", "+2")])
    call = CARRIER.read_call(request)
    assert call == Ringing("c1", "+1", "+2")
    document = CARRIER.answer(Account(), call, "wss://a.example/token/t", {})
    assert json.loads(document.body) == {"url": "wss://a.example/token/t"}
    assert document.content_type == "application/json"
    assert CARRIER.busy(Account(), call).status == 503


@pytest.mark.parametrize("audio", [PCM_8K, PCM_16K, PCM_24K, MULAW_8K], ids=str)
def test_messages_are_of_the_size_that_is_asked_for(audio: AudioFormat):
    sending = exotel._sending(audio)
    if audio.encoding == "pcm16":
        assert (sending.unit, sending.least) == (320, 3200)
        assert sending.most <= 100_000
        assert sending.most % sending.unit == 0
    assert sending.least % sending.unit == 0
    assert audio.bytes_for(sending.first_ms) >= sending.least or audio is MULAW_8K


def test_there_is_no_api_to_end_or_move_a_call():
    assert CARRIER.hang_up(Account(secret="s"), LiveCall("c1"), 0) is None
    assert CARRIER.transfer(Account(secret="s"), LiveCall("c1"), "+1", 0) is None
    assert not CARRIER.moves_calls
