"""Twilio's media sockets: who gets in, how long a stranger may wait, what a hostile peer costs."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from flowcat_server.core import ended
from flowcat_server.routes import telephony
from tests.fakes.doors import (
    ECHO,
    Doors,
    doors,
)

MEDIA = "/telephony/ws/twilio"
POLICY_VIOLATION = 1008


# --- who gets in ----------------------------------------------------------------------------------


async def test_a_token_opens_the_socket_of_its_call(tmp_path: Path):
    async with doors(tmp_path) as house:
        async with house.call() as leg:
            await leg.say(b"\x01" * 160)
            assert await leg.hears(160) == b"\x01" * 160
            assert house.calls.count == 1
        await house.settled(0)


async def refused(house: Doors, call_sid: str, parameters: dict[str, str]) -> None:
    before = house.calls.count
    async with house.media(call_sid, parameters) as leg:
        assert await leg.closed() == POLICY_VIOLATION
    assert house.calls.count == before
    assert not house.calls.live


@pytest.mark.parametrize(
    "parameters", [{}, {"token": ""}, {"token": "1.2.3"}, {"token": "ü.ü.ü"}, {"Token": "x"}]
)
async def test_a_socket_without_a_good_token_is_refused(tmp_path: Path, parameters: dict[str, str]):
    async with doors(tmp_path) as house:
        await refused(house, "CA1", parameters)


async def test_without_credentials_a_bad_token_is_refused_too(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house:
        await refused(house, "CA1", {"token": "1.2.3"})


async def test_a_wrong_handshake_signature_is_refused_before_the_upgrade(tmp_path: Path):
    async with doors(tmp_path) as house:
        answer = await house.ring()
        wrong = house.signature("https://voice.example" + MEDIA)
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await house.client.ws_connect(house.url + MEDIA, headers=wrong)
        assert error.value.status == 403
        right = house.signature("wss://voice.example:443" + MEDIA)
        async with house.media(answer.call_sid, answer.parameters, headers=right):
            await house.settled(1)


async def test_a_refused_sockets_token_is_not_logged(tmp_path: Path):
    async with doors(tmp_path) as house:
        wrong = house.signature("https://voice.example" + MEDIA)
        for path in (f"{MEDIA}/token/1.secret.2", f"{MEDIA}/run-1?a=1&token=1.secret.2#x"):
            with capture_logs() as logged, pytest.raises(aiohttp.WSServerHandshakeError):
                await house.client.ws_connect(house.url + path, headers=wrong)
            (line,) = [each for each in logged if each["event"] == "media_refused"]
            assert "secret" not in str(line)
            assert "token" in line["url"]


async def test_a_signed_handshake_still_needs_the_token(tmp_path: Path):
    async with doors(tmp_path) as house:
        signed = house.signature("wss://voice.example" + MEDIA)
        async with house.media("CA1", {}, headers=signed) as leg:
            assert await leg.closed() == POLICY_VIOLATION


async def test_a_request_that_is_no_websocket_is_told_so(tmp_path: Path):
    async with doors(tmp_path) as house:
        async with house.client.get(house.url + MEDIA) as response:
            assert response.status in (400, 426)
        async with house.call():
            await house.settled(1)


async def test_sockets_that_name_no_call_are_bounded_and_let_signed_ones_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(telephony, "MAX_WAITING_PER_ADDRESS", 5)
    async with doors(tmp_path) as house:
        idle = [await house.client.ws_connect(house.url + MEDIA) for _ in range(5)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await house.client.ws_connect(house.url + MEDIA)
        assert error.value.status == 503
        answer = await house.ring()
        signed = house.signature("wss://voice.example" + MEDIA)
        async with house.media(answer.call_sid, answer.parameters, headers=signed) as leg:
            await leg.say(b"\x01" * 160)
            assert await leg.hears(160) == b"\x01" * 160
        for socket in idle:
            await socket.close()
        await asyncio.sleep(0.05)
        async with house.call():
            await house.settled(1)


async def test_a_socket_that_names_no_call_is_closed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(telephony, "START_TIMEOUT_MS", 50)
    async with doors(tmp_path) as house, house.client.ws_connect(house.url + MEDIA) as socket:
        await socket.send_str('{"event":"connected"}')
        message = await asyncio.wait_for(socket.receive(), 5)
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert message.data == POLICY_VIOLATION


async def test_a_format_that_we_cannot_read_is_refused(tmp_path: Path):
    async with doors(tmp_path) as house:
        answer = await house.ring()
        async with house.client.ws_connect(house.url + MEDIA) as socket:
            start = {
                "callSid": answer.call_sid,
                "customParameters": answer.parameters,
                "mediaFormat": {"encoding": "audio/x-opus", "sampleRate": 16000},
            }
            await socket.send_json({"event": "start", "streamSid": "MZ1", "start": start})
            message = await asyncio.wait_for(socket.receive(), 5)
            assert message.data == POLICY_VIOLATION


# --- hostile peers --------------------------------------------------------------------------------


async def attack(leg: Any, how: str) -> None:
    writer = leg.socket._writer
    match how:
        case "long-text":
            await leg.socket.send_str("x" * 1_000_000)
        case "long-binary":
            await leg.socket.send_bytes(b"\x00" * 1_000_000)
        case "faults":
            for _ in range(1000):
                await leg.socket.send_str("[" * 500)
        case "binary-faults":
            for n in range(1000):
                await leg.socket.send_bytes(bytes([n % 256]) * 100)
        case "flood":
            for _ in range(6000):
                await leg.socket.send_str('{"event":"x"}')
        case "compressed":
            await writer.send_frame(b"\x00\x01\x02", aiohttp.WSMsgType.TEXT, compress=15)
        case "reserved-opcode":
            writer.transport.write(b"\x8b\x80\x00\x00\x00\x00")
        case "unmasked":
            writer.transport.write(b"\x81\x02hi")
        case "endless-fragments":
            for n in range(100):
                opcode = b"\x01" if n == 0 else b"\x00"
                writer.transport.write(opcode + b"\xfe\x07\xd0\x00\x00\x00\x00" + b"x" * 2000)


@pytest.mark.parametrize(
    "how",
    [
        "long-text",
        "long-binary",
        "faults",
        "binary-faults",
        "flood",
        "compressed",
        "reserved-opcode",
        "endless-fragments",
    ],
)
async def test_a_peer_that_breaks_the_protocol_ends_its_own_call_and_no_other(
    tmp_path: Path, how: str
):
    async with doors(tmp_path) as house, house.call() as good, house.call() as bad:
        await house.settled(2)
        victim, attacker = house.calls.live.values()
        heard = asyncio.create_task(good.hears(15 * 160, within_s=10))

        async def talk() -> None:
            for n in range(15):
                await good.say(bytes([n + 1]) * 160)
                await asyncio.sleep(0.02)

        talking = asyncio.create_task(talk())
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):  # thrown out half way
            await attack(bad, how)
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            await bad.closed()
        await house.settled(1)
        assert attacker.reason == ended.CARRIER_PROTOCOL
        await talking
        assert await heard == b"".join(bytes([n + 1]) * 160 for n in range(15))
        assert victim.reason is None
