from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core import ended
from flowcat_server.core import events as ev
from flowcat_server.records import webhook as module
from flowcat_server.records.models import CallRow
from flowcat_server.records.store import Store
from flowcat_server.records.webhook import GIVE_UP_MS, TROUBLE, Webhook, sign, verify

NOW = 1_763_800_100
SECRET = "shared between us"


@dataclass
class Receiver:
    """Somebody's web server; answers with what is in `answers`, then with 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    got: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), await request.read()))
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            self.got.set()
        if status == 302:
            raise web.HTTPFound("/elsewhere")
        return web.Response(status=status)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    receiver.url = f"http://{host}:{port}/calls"
    yield receiver
    await runner.cleanup()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(directory=tmp_path, webhook=True)
    for call_id in ("a1", "a2"):
        writer = await store.call_accepted(CallRow(call_id, "clinic", "twilio", NOW * 1000 - 5000))
        writer.on_event(ev.TurnCompleted(900, 1, "hours?", "Nine to five", 0))
        number = int(call_id[1])
        await store.call_ended(call_id, ev.CallEnded(1000 * number, ended.CALLER_HUNG_UP))
    yield store
    await store.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_each_ended_call_is_told_once_signed(
    store: Store, receiver: Receiver, session: aiohttp.ClientSession
) -> None:
    hook = Webhook(store, session, receiver.url, SECRET, clock=lambda: NOW)

    assert await hook.deliver_due()
    assert await hook.deliver_due()

    assert len(receiver.requests) == 2
    headers, body = receiver.requests[0]
    assert verify(SECRET, headers["X-Flowcat-Signature"], body, NOW + 10)
    assert not verify(SECRET, headers["X-Flowcat-Signature"], body + b" ", NOW)
    assert not verify("another", headers["X-Flowcat-Signature"], body, NOW)
    assert not verify(SECRET, headers["X-Flowcat-Signature"], body, NOW + 301)
    assert headers["X-Flowcat-Delivery"] == "a1"
    told = json.loads(body)
    assert told["type"] == "call.ended"
    assert told["call"]["turns"][0]["agent"] == "Nine to five"
    assert told["call"]["ended_reason"] == "caller.hung_up"


async def test_without_a_secret_nothing_is_signed(
    store: Store, receiver: Receiver, session: aiohttp.ClientSession
) -> None:
    await Webhook(store, session, receiver.url).deliver_due()

    assert "X-Flowcat-Signature" not in receiver.requests[0][0]


@pytest.mark.parametrize("status", [425, 429, 408])
async def test_a_receiver_in_trouble_is_tried_again(
    store: Store, receiver: Receiver, session: aiohttp.ClientSession, status: int
) -> None:
    receiver.answers = [status]
    hook = Webhook(store, session, receiver.url, clock=lambda: NOW)

    assert not await hook.deliver_due()
    assert len(receiver.requests) == 1, "the others wait as well"
    assert await store.webhooks_due() == ["a1", "a2"]
    assert await hook.deliver_due()
    assert await store.webhooks_due() == []


async def test_a_report_that_breaks_the_receiver_holds_up_no_other(
    store: Store, receiver: Receiver, session: aiohttp.ClientSession
) -> None:
    receiver.answers = [500]
    hook = Webhook(store, session, receiver.url, clock=lambda: NOW)

    assert not await hook.deliver_due()
    assert [headers["X-Flowcat-Delivery"] for headers, _ in receiver.requests] == ["a1", "a2"]
    assert await store.webhooks_due() == ["a1"]
    assert await hook.deliver_due()
    assert await store.webhooks_due() == []


async def test_a_receiver_that_answers_nothing_but_errors_is_left_alone_for_a_while(
    store: Store, receiver: Receiver, session: aiohttp.ClientSession
) -> None:
    for call_id in ("a3", "a4", "a5"):
        await store.call_accepted(CallRow(call_id, "clinic", "twilio", NOW * 1000))
        await store.call_ended(call_id, ev.CallEnded(10_000, ended.CALLER_HUNG_UP))
    receiver.answers = [503] * 5

    assert not await Webhook(store, session, receiver.url, clock=lambda: NOW).deliver_due()
    assert len(receiver.requests) == TROUBLE
    assert len(await store.webhooks_due()) == 5


@pytest.mark.parametrize("status", [400, 404, 410, 302])
async def test_a_refusal_is_final_for_that_call(
    store: Store, receiver: Receiver, session: aiohttp.ClientSession, status: int
) -> None:
    receiver.answers = [status]
    hook = Webhook(store, session, receiver.url, clock=lambda: NOW)

    assert await hook.deliver_due()
    assert len(receiver.requests) == 2
    assert await store.webhooks_due() == []


async def test_nobody_there_is_given_up_after_a_day(
    store: Store, session: aiohttp.ClientSession, unused_port: int
) -> None:
    url = f"http://127.0.0.1:{unused_port}/"

    assert not await Webhook(store, session, url, clock=lambda: NOW).deliver_due()
    assert await store.webhooks_due() == ["a1", "a2"]
    later = NOW + GIVE_UP_MS / 1000
    assert await Webhook(store, session, url, clock=lambda: later).deliver_due()
    assert await store.webhooks_due() == []


@pytest.fixture
async def unused_port() -> int:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def test_the_task_retries_and_is_woken(
    store: Store,
    receiver: Receiver,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RETRY_MS", (1,))
    receiver.answers = [500, 500]
    hook = Webhook(store, session, receiver.url, clock=lambda: NOW)
    task = asyncio.create_task(hook.run())
    async with asyncio.timeout(5):
        while await store.webhooks_due():  # noqa: ASYNC110 - a column sets no event
            await asyncio.sleep(0.005)
        assert len(receiver.requests) == 4

        receiver.got.clear()
        await store.call_accepted(CallRow("a3", "clinic", "twilio", NOW * 1000))
        await store.call_ended("a3", ev.CallEnded(9, ended.AGENT_ENDED))
        hook.call_ended()
        await receiver.got.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@given(st.text())
def test_any_header_is_judged(header: str) -> None:
    assert not verify(SECRET, header, b"body", NOW)


@given(st.binary())
def test_what_was_signed_verifies(body: bytes) -> None:
    assert verify(SECRET, sign(SECRET, body, NOW), body, NOW)
