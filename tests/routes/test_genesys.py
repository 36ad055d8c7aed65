"""Genesys: signed handshakes and a whole session over a real socket."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from flowcat_server.core import ended
from tests.fakes.doors import ECHO, Doors, doors
from tests.fakes.genesys import CALL, COVERED, PATH, YAML, Client, signed


async def refused(house: Doors, headers: dict[str, str]) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await house.client.ws_connect(house.url + PATH, headers=headers)
    assert error.value.status == 403
    assert house.calls.count == 0


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
