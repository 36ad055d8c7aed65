"""Genesys: signed handshakes and a whole session over a real socket."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from flowcat_server.core import ended
from tests.fakes.doors import ECHO, PUBLIC, Doors, doors

SECRET = base64.b64encode(b"the client secret of the tests").decode()
PATH = "/telephony/ws/genesys"
ORGANIZATION = "d7934305-0972-4844-938e-9060eef73d05"
SESSION = "e160e428-53e2-487c-977d-96989bf5c99d"
CALL = "090eaa2f-72fa-480a-83e0-8667ff89c0ec"
YAML = (
    f"{ECHO}carriers: {{genesys: {{client_secret: '{SECRET}', api_key: KEY}}}}\n"
    f"server: {{public_url: '{PUBLIC}'}}\n"
)
COVERED = (
    "@request-target", "@authority", "audiohook-organization-id", "audiohook-session-id",
    "audiohook-correlation-id", "x-api-key",
)  # fmt: skip


def signed(
    now: float,
    *,
    nonce: str = "VGhpc0lzQVVuaXF1ZU5vbmNl",
    host: str = "voice.example",
    key: str = "KEY",
    covered: tuple[str, ...] = COVERED,
    secret: str = SECRET,
    expires: int = 30,
) -> dict[str, str]:
    """The handshake's headers, built from the text of the draft and not by our code."""
    headers = {
        "audiohook-organization-id": ORGANIZATION,
        "audiohook-session-id": SESSION,
        "audiohook-correlation-id": "c1",
        "x-api-key": key,
    }
    values = {"@request-target": PATH, "@authority": host, **headers}
    listed = " ".join(f'"{name}"' for name in covered)
    params = (
        f'({listed});keyid="{key}";nonce="{nonce}";alg="hmac-sha256";created={int(now)}'
        f";expires={int(now) + expires}"
    )
    lines = [f'"{name}": {values[name]}' for name in covered]
    base = "\n".join([*lines, f'"@signature-params": {params}'])
    given = hmac.new(base64.b64decode(secret), base.encode(), hashlib.sha256).digest()
    return {
        **headers,
        "Signature-Input": f"sig1={params}",
        "Signature": f"sig1=:{base64.b64encode(given).decode()}:",
    }


async def refused(house: Doors, headers: dict[str, str]) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await house.client.ws_connect(house.url + PATH, headers=headers)
    assert error.value.status == 403
    assert house.calls.count == 0


class Client:
    """Genesys' end of the socket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.seq = 0
        self.seen = 0
        self.audio = b""

    async def send(self, kind: str, **parameters: Any) -> None:
        self.seq += 1
        await self.socket.send_json(
            {
                "version": "2", "id": SESSION, "type": kind, "seq": self.seq,
                "serverseq": self.seen, "position": "PT0S", "parameters": parameters,
            }
        )  # fmt: skip

    async def expect(self, kind: str) -> dict[str, Any]:
        """The next message of the protocol; its sequence has to be right."""
        while True:
            message = await self.socket.receive(timeout=5)
            if message.type is aiohttp.WSMsgType.BINARY:
                self.audio += message.data
                continue
            assert message.type is aiohttp.WSMsgType.TEXT, message
            fields: dict[str, Any] = json.loads(message.data)
            self.seen += 1
            assert (fields["seq"], fields["id"], fields["version"]) == (self.seen, SESSION, "2")
            assert fields["clientseq"] <= self.seq
            assert fields["type"] == kind, fields
            return fields

    async def open(self, conversation: str = CALL, organization: str = ORGANIZATION) -> None:
        media = [{"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}]
        await self.send(
            "open",
            organizationId=organization,
            conversationId=conversation,
            participant={"id": "p", "ani": "tel:+15550100", "dnis": "+15550199"},
            media=media,
        )


async def test_a_whole_session(tmp_path: Path):
    async with doors(tmp_path, YAML) as house:
        headers = signed(house.clock.now)
        async with house.client.ws_connect(house.url + PATH, headers=headers) as socket:
            client = Client(socket)
            await client.open()
            opened = await client.expect("opened")
            assert [each["channels"] for each in opened["parameters"]["media"]] == [["external"]]
            await client.send("ping")
            await client.expect("pong")
            speech = bytes(range(1, 201)) * 8
            await socket.send_bytes(speech)
            while len(client.audio) < len(speech):
                message = await socket.receive(timeout=5)
                assert message.type is aiohttp.WSMsgType.BINARY
                assert 800 <= len(message.data) <= 64_000
                client.audio += message.data
            assert client.audio[: len(speech)] == speech
            (session,) = house.calls.live.values()
            await client.send("close", reason="end")
            await client.expect("closed")
            assert (await socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE
        await house.settled(0)
        assert session.reason == ended.CALLER_HUNG_UP
        record = await house.store.get_call(session.id)
        assert record is not None
        assert record.summary.external_id == CALL
        assert (record.summary.from_number, record.summary.to_number) == ("+15550100", "+15550199")


async def test_our_end_is_asked_for_and_waited_for(tmp_path: Path):
    async with doors(tmp_path, YAML) as house:
        headers = signed(house.clock.now)
        async with house.client.ws_connect(house.url + PATH, headers=headers) as socket:
            client = Client(socket)
            await client.open()
            await client.expect("opened")
            await house.settled(1)
            (session,) = house.calls.live.values()
            session.end(ended.AGENT_ENDED)
            silence = await client.expect("event")
            assert [each["type"] for each in silence["parameters"]["entities"]] == ["barge_in"]
            disconnect = await client.expect("disconnect")
            assert disconnect["parameters"] == {"reason": "completed"}
            await client.send("close", reason="disconnect")
            await client.expect("closed")
            assert (await socket.receive(timeout=5)).data == 1000


async def test_a_probe_starts_no_agent(tmp_path: Path):
    async with doors(tmp_path, YAML) as house:
        headers = signed(house.clock.now)
        async with house.client.ws_connect(house.url + PATH, headers=headers) as socket:
            client = Client(socket)
            await client.open("00000000-0000-0000-0000-000000000000")
            await client.expect("opened")
            await client.send("close", reason="end")
            await client.expect("closed")
        assert house.calls.count == 0


async def test_another_organizations_call_is_refused(tmp_path: Path):
    async with doors(tmp_path, YAML) as house:
        headers = signed(house.clock.now)
        async with house.client.ws_connect(house.url + PATH, headers=headers) as socket:
            client = Client(socket)
            await client.open(organization="somebody else")
            assert (await client.expect("disconnect"))["parameters"] == {"reason": "error"}
            assert (await socket.receive(timeout=5)).data == 1008
        assert house.calls.count == 0


@pytest.mark.parametrize(
    "change",
    [
        {"host": "evil.example"},
        {"host": "voice.example:8443"},
        {"key": "OTHER"},
        {"nonce": "short"},
        {"secret": base64.b64encode(b"another").decode()},
        {"covered": COVERED[1:]},
        {"covered": COVERED[:-1]},
        {"expires": -1},
        {"late": 11},
        {"late": -4},
    ],
    ids=str,
)
async def test_any_other_handshake_is_refused(tmp_path: Path, change: dict[str, Any]):
    async with doors(tmp_path, YAML) as house:
        change = dict(change)
        await refused(house, signed(house.clock.now - change.pop("late", 0), **change))
        changed = signed(house.clock.now) | {"audiohook-session-id": "other"}
        await refused(house, changed)
        await refused(house, {})


async def test_a_handshake_is_good_once_and_with_the_default_port(tmp_path: Path):
    async with doors(tmp_path, YAML) as house:
        headers = signed(house.clock.now, host="voice.example:443")
        async with house.client.ws_connect(house.url + PATH, headers=headers):
            pass
        await refused(house, headers)


async def test_without_a_secret_only_this_machine_is_served(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house:
        await refused(house, {"Host": "voice.example"})
        async with house.client.ws_connect(house.url + PATH) as socket:
            client = Client(socket)
            await client.open()
            await client.expect("opened")
