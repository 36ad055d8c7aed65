"""Two machines with one Redis: a real one, where it is installed."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from flowcat_server.errors import AuthError, ConfigError, SharedStateError
from flowcat_server.routes.tokens import StreamTokens
from flowcat_server.workers.machines import Machines
from tests.e2e.conftest import StartServer, free_port
from tests.e2e.conftest import start_server as start_server
from tests.phone.line import Hangup, Phone

pytest.importorskip("redis")
BINARY = shutil.which("redis-server") or shutil.which("valkey-server")
pytestmark = pytest.mark.skipif(BINARY is None, reason="neither redis-server nor valkey-server")


@dataclass
class Redis:
    process: subprocess.Popen[bytes]
    url: str

    def hangs(self) -> None:
        """Connections are taken and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def goes_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    port = free_port()
    command = [str(BINARY), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir"]
    process = subprocess.Popen(
        [*command, str(tmp_path), "--requirepass", "hush"], stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.02)
        else:
            break
    yield Redis(process, f"redis://:hush@127.0.0.1:{port}/1")
    process.kill()
    process.wait(5)


@asynccontextmanager
async def two(redis: Redis) -> AsyncIterator[tuple[Machines, Machines]]:
    async with Machines.open(redis.url) as one, Machines.open(redis.url) as other:
        yield one, other


def tokens(machines: Machines) -> StreamTokens:
    return StreamTokens(machines.stream_secret, used=machines.used_tokens)


async def test_a_token_of_one_machine_is_good_once_at_any(redis: Redis):
    async with two(redis) as (one, other):
        token = tokens(one).mint("twilio", "CA1")
        await tokens(other).consume(token, "twilio", "CA1")
        for machines in (one, other):
            with pytest.raises(AuthError, match="used before"):
                await tokens(machines).consume(token, "twilio", "CA1")


async def test_a_webhook_is_new_to_one_machine(redis: Redis):
    async with two(redis) as (one, other):
        assert await one.seen_webhooks.first("twilio signature")
        assert not await other.seen_webhooks.first("twilio signature")
        assert await other.used_tokens.first("twilio signature"), "another memory"


async def test_when_redis_hangs_tokens_are_refused_in_time_and_its_password_is_not_told(
    redis: Redis,
):
    async with two(redis) as (one, _):
        token = tokens(one).mint("twilio", "CA1")
        redis.hangs()
        begun = time.monotonic()
        with pytest.raises(SharedStateError, match="out of reach") as caught:
            await tokens(one).consume(token, "twilio", "CA1")
        assert time.monotonic() - begun < 4
        assert "hush" not in str(caught.value)
        redis.goes_on()
        await tokens(one).consume(tokens(one).mint("twilio", "CA1"), "twilio", "CA1")


async def test_without_redis_the_server_does_not_start():
    with pytest.raises(SharedStateError, match="127.0.0.1:9 is out of reach"):
        async with Machines.open("redis://127.0.0.1:9"):
            pass
    with pytest.raises(ConfigError, match="server.redis"):
        async with Machines.open("http://127.0.0.1:9"):
            pass


AGENT = """
agent: {prompt: Be kind., greeting: "Hello, how can I help you today?"}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [hello there], loop: true}}
  llm: {provider: scripted, options: {replies: [An answer.], loop: true}}
  tts: {provider: scripted}
records: {audio: none}
"""


@pytest.mark.e2e
@pytest.mark.timeout(120)
async def test_a_webhook_at_one_server_and_its_socket_at_another(
    start_server: StartServer, redis: Redis
):
    one = start_server(AGENT, FLOWCAT__SERVER__REDIS=redis.url)
    other = start_server(AGENT, FLOWCAT__SERVER__REDIS=redis.url)
    async with aiohttp.ClientSession() as session:
        ticket = (
            (await Phone(session, one.url)._ring())[0],
            f"ws://localhost:{other.port}/telephony/ws/twilio",
        )

        async def there() -> tuple[dict[str, str], str]:
            return ticket

        heard = 0
        for _ in range(2):
            phone = Phone(session, other.url)
            phone._ring = there  # type: ignore[method-assign]
            async with phone:
                try:
                    await phone.hears_something()
                    heard += 1
                except Hangup:
                    assert "stream token used before" in other.text()
        assert heard == 1
        async with session.get(f"{other.url}/api/calls") as response:
            (call,) = (await response.json())["calls"]
        assert (call["from"], call["to"]) == ("+15550100", "+15550199")

        redis.hangs()
        with pytest.raises(Hangup):
            async with Phone(session, one.url, call_sid="CA" + "1" * 32) as late:
                await late.hears_something()
        assert "out of reach" in one.text()
        redis.goes_on()
        async with Phone(session, one.url, call_sid="CA" + "2" * 32) as again:
            await again.hears_something()
    assert "hush" not in one.text() + other.text()
