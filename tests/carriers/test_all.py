"""What holds for every carrier: recorded calls, anything at all, names, documents, addresses."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowcat_server import carriers
from flowcat_server.config.carriers import Carriers
from flowcat_server.core.carrier import (
    Account,
    CallStatus,
    Digit,
    Flow,
    Ignored,
    LiveCall,
    MarkPlayed,
    Refuse,
    Reply,
    Request,
    RestRequest,
    Ringing,
    Started,
    Stopped,
    Verdict,
)
from tests.carriers.kit import as_row, carrier_named, messages, recordings, replay, requests

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
"""Of anything at all, for each carrier; a long run sets more."""
EVENTS = bytes | Started | Digit | MarkPlayed | Flow | Stopped | Ignored | Refuse | Reply
every = pytest.mark.parametrize("name", carriers.names())


@pytest.mark.parametrize(
    ("name", "file"), recordings(), ids=lambda value: getattr(value, "stem", value)
)
def test_a_recorded_call_means_exactly_what_is_written_beside_it(name: str, file: Path):
    for line, found, expected in replay(name, file):
        assert found == expected, line


@every
def test_a_carrier_is_named_after_its_file_and_has_a_block_in_the_agent_file(name: str):
    carrier = carrier_named(name)
    assert carrier.name == name
    assert carrier.title
    assert carrier.docs.startswith("https://")
    assert carrier.paste
    block = Carriers().block(name)
    assert carrier.credential in type(block).model_fields
    assert not block.account().guarded


def test_every_block_is_a_carrier():
    assert set(Carriers.model_fields) == set(carriers.names())
    assert carriers.find("_twilio") is None
    assert carriers.find("../twilio") is None


@every
@given(data=st.data())
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_nothing_that_arrives_raises(name: str, data: st.DataObject):
    stream = carrier_named(name).open(Account(), Request("GET", "wss://a.example/ws"))
    for message, binary in data.draw(st.lists(messages(name), max_size=8)):
        fed = stream.feed(message, binary)
        assert isinstance(fed, EVENTS)
        assert fed != b""
        as_row(fed)


@every
def test_nothing_takes_long_to_understand(name: str):
    bombs = [
        '{"event":' + "[" * 65_000,
        '{"a":' * 13_000,
        "{" + ",".join(f'"{n}":{n}' for n in range(6_000)) + "}",
        "A=" + "B;" * 30_000,
        "9" * 65_000,
        "\x00" * 65_000,
        '{"event":"start","start":{"callId":"c","streamId":"s"},"extra_headers":"'
        + "a=b;" * 15_000
        + '"}',
    ]
    stream = carrier_named(name).open(Account(), Request("GET", "wss://a.example/ws"))
    for bomb in bombs:
        for binary in (False, True):
            begun = time.thread_time()
            stream.feed(bomb.encode() if binary else bomb, binary)
            assert time.thread_time() - begun < 0.05


ACCOUNT = Account(id="id", secret="secret", webhook_key="a2V5", api="https://api.example")


@every
@given(data=st.data())
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_webhook_raises_and_none_is_good_by_chance(name: str, data: st.DataObject):
    carrier = carrier_named(name)
    request = data.draw(requests(name))
    if carrier.has_webhook:
        call = carrier.read_call(request)
        assert call is None or isinstance(call, Ringing)
        if call is not None:
            document = carrier.answer(ACCOUNT, call, "wss://a.example/ws", {"token": "t"})
            document.body.encode()
            carrier.busy(ACCOUNT, call).body.encode()
            for rest in (
                carrier.hang_up(ACCOUNT, LiveCall(call.call_id), 0),
                carrier.transfer(ACCOUNT, LiveCall(call.call_id), "+15550100", 0),
            ):
                assert rest is None or isinstance(rest, RestRequest)
    for verdict in (
        carrier.verify(request, ACCOUNT, 1_700_000_000),
        carrier.verify_handshake(request, ACCOUNT, 1_700_000_000),
    ):
        assert verdict is None or isinstance(verdict, Verdict)
        assert verdict is None or not verdict.proven
    status = carrier.read_status(request)
    assert status is None or isinstance(status, CallStatus)
