"""Twilio's doors on a real socket: who gets in, what is answered, what a call costs others."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs
from twilio.request_validator import RequestValidator

from flowcat_server import calls as calls_module
from flowcat_server.core import ended, events
from flowcat_server.core.graph import TransferTarget
from flowcat_server.routes import telephony
from tests.fakes.doors import (
    AUTH_TOKEN,
    ECHO,
    PUBLIC,
    SIGNED,
    TWILIO,
    Doors,
    doors,
    new_sid,
)
from tests.fakes.twilio_rest import twilio_rest

ANSWER = "/telephony/answer/twilio"
MEDIA = "/telephony/ws/twilio"
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013


# --- the webhook ----------------------------------------------------------------------------------


async def test_a_signed_webhook_is_answered_with_our_socket_and_a_token(tmp_path: Path):
    async with doors(tmp_path) as house:
        answer = await house.ring()
        assert answer.status == 200
        assert answer.stream_url == "wss://voice.example/telephony/ws/twilio"
        assert answer.parameters["token"].count(".") == 2
        assert house.calls.count == 1


async def test_a_run_id_is_kept_in_the_stream_url_and_in_the_calls_variables(tmp_path: Path):
    async with doors(tmp_path) as house:
        answer = await house.ring(path=f"{ANSWER}/run-7")
        assert answer.stream_url.endswith("/telephony/ws/twilio/run-7")
        async with house.media(answer.call_sid, answer.parameters, path=f"{MEDIA}/run-7"):
            await house.settled(1)
            (session,) = house.calls.live.values()
        await house.settled(0)
        record = await house.store.get_call(session.id)
        assert record is not None
        assert record.variables["run_id"] == "run-7"
        assert record.variables["caller_number"] == "+15550100"
        assert (record.summary.from_number, record.summary.to_number) == ("+15550100", "+15550199")
        assert record.summary.external_id == answer.call_sid


async def test_a_get_webhook_is_signed_by_its_url(tmp_path: Path):
    async with doors(tmp_path) as house:
        path = f"{ANSWER}?CallSid=CA77&From=%2B1555&To=a%20b&x="
        headers = house.signature(PUBLIC + path)
        url = aiohttp.client.URL(house.url + path, encoded=True)
        async with house.client.get(url, headers=headers) as response:
            assert response.status == 200
            assert "<Connect>" in await response.text()
        headers = house.signature(PUBLIC + path.replace("CA77", "CA78"))
        async with house.client.get(url, headers=headers) as response:
            assert response.status == 403


async def test_a_shared_key_signature_with_sha256_is_accepted(tmp_path: Path):
    async with doors(tmp_path) as house:
        form = {"CallSid": "CA9"}
        signed = RequestValidator(AUTH_TOKEN).compute_signature(
            PUBLIC + ANSWER, form, "HMAC_SHA256"
        )
        headers = {"X-Twilio-Signature": signed}
        async with house.client.post(house.url + ANSWER, data=form, headers=headers) as response:
            assert response.status == 403
        headers["X-Twilio-Webhooks-Signature-Settings"] = "key=k,algorithm=HMAC_SHA256"
        async with house.client.post(house.url + ANSWER, data=form, headers=headers) as response:
            assert response.status == 200


FORM = {"CallSid": "CA5", "From": "+1", "To": "+2"}


@pytest.mark.parametrize(
    "signed_url",
    [
        "",
        "http://voice.example/telephony/answer/twilio",
        "https://voice.example:8443/telephony/answer/twilio",
        "https://other.example/telephony/answer/twilio",
        "https://voice.example/telephony/answer/twilio/",
        "https://voice.example/telephony/answer/twilio?x=1",
    ],
    ids=["unsigned", "scheme", "wrong-port", "host", "slash", "query"],
)
async def test_any_other_signature_is_refused_and_reserves_nothing(tmp_path: Path, signed_url: str):
    async with doors(tmp_path) as house:
        headers = house.signature(signed_url, FORM) if signed_url else {}
        async with house.client.post(house.url + ANSWER, data=FORM, headers=headers) as response:
            assert response.status == 403
        assert house.calls.count == 0


async def test_the_default_port_in_the_signed_url_makes_no_difference(tmp_path: Path):
    async with doors(tmp_path) as house:
        headers = house.signature("https://voice.example:443" + ANSWER, FORM)
        async with house.client.post(house.url + ANSWER, data=FORM, headers=headers) as response:
            assert response.status == 200


async def test_a_changed_form_is_refused(tmp_path: Path):
    async with doors(tmp_path) as house:
        headers = house.signature(PUBLIC + ANSWER, FORM)
        changed = {**FORM, "To": "+3"}
        async with house.client.post(house.url + ANSWER, data=changed, headers=headers) as response:
            assert response.status == 403


async def test_a_replayed_webhook_mints_no_second_token(tmp_path: Path):
    async with doors(tmp_path) as house:
        first = await house.ring("CA5")
        second = await house.ring("CA5")
        assert (first.status, second.status) == (200, 403)
        assert house.calls.count == 1


async def test_a_second_webhook_about_the_same_call_keeps_its_place(tmp_path: Path):
    async with doors(tmp_path, SIGNED + "limits: {max_calls: 1}\n") as house:
        first = await house.ring("CA5")
        again = await house.ring("CA5", ErrorCode="11200")
        assert (first.verb, again.verb) == ("Connect", "Connect")
        assert house.calls.count == 1
        async with house.media("CA5", again.parameters) as leg:
            await leg.say(b"\x11" * 160)
            assert await leg.hears(160) == b"\x11" * 160
        await house.settled(0)
        assert house.calls.count == 0


async def test_a_call_without_a_usable_id_is_refused(tmp_path: Path):
    async with doors(tmp_path) as house:
        for call_sid in ("", "x" * 129, "CA 1", "CA\n1", "../x", "CA\u00fc", "<b>"):
            form = {"CallSid": call_sid}
            headers = house.signature(PUBLIC + ANSWER, form)
            async with house.client.post(house.url + ANSWER, data=form, headers=headers) as answer:
                assert answer.status == 400, call_sid
        assert house.calls.count == 0


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"x" * 70_000, "application/x-www-form-urlencoded", 413),
        (b"a=1&" * 1000, "application/x-www-form-urlencoded", 400),
        (b"\xff\xfe=%ff", "application/x-www-form-urlencoded; charset=nonsense", 403),
        (b"{}", "application/json", 403),
        (b"--x\r\n", "multipart/form-data; boundary=x", 403),
    ],
    ids=["long", "fields", "charset", "json", "multipart"],
)
async def test_bodies_that_are_no_form_are_refused_politely(
    tmp_path: Path, body: bytes, content_type: str, status: int
):
    async with doors(tmp_path) as house:
        headers = {"Content-Type": content_type}
        async with house.client.post(house.url + ANSWER, data=body, headers=headers) as response:
            assert response.status == status


async def test_a_long_body_without_a_length_is_cut_short(tmp_path: Path):
    async def endless() -> Any:
        while True:
            yield b"a" * 16_384

    async with doors(tmp_path) as house:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        try:
            async with house.client.post(
                house.url + ANSWER, data=endless(), headers=headers
            ) as response:
                assert response.status == 413
        except aiohttp.ClientOSError:
            pass  # refused while we were still sending


async def test_other_methods_are_not_allowed(tmp_path: Path):
    async with doors(tmp_path) as house:
        for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"):
            for path in (ANSWER, MEDIA):
                async with house.client.request(method, house.url + path) as response:
                    assert response.status == 405, (method, path)


async def test_run_ids_are_plain(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house:
        for run_id in ("a b", "x" * 65, "%2e%2e", "a.b", "%C3%BC", "a%2fb", "%00"):
            for path in (ANSWER, MEDIA):
                url = aiohttp.client.URL(f"{house.url}{path}/{run_id}", encoded=True)
                async with house.client.get(url) as response:
                    assert response.status in (400, 404), run_id


# --- proxies --------------------------------------------------------------------------------------

TRUSTING = f"{ECHO}{TWILIO}server: {{trusted_proxies: [127.0.0.1/32]}}\n"
FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "voice.example"}


async def post_as(house: Doors, signed_url: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
    signed = {**headers, **house.signature(signed_url, FORM)}
    async with house.client.post(house.url + ANSWER, data=FORM, headers=signed) as response:
        await response.read()
        return response


async def test_a_trusted_proxys_word_counts(tmp_path: Path):
    async with doors(tmp_path, TRUSTING) as house:
        response = await post_as(house, PUBLIC + ANSWER, FORWARDED)
        assert response.status == 200
        assert 'url="wss://voice.example/telephony/ws/twilio"' in await response.text()


async def test_anybody_elses_word_does_not(tmp_path: Path):
    async with doors(tmp_path, ECHO + TWILIO) as house:
        assert (await post_as(house, PUBLIC + ANSWER, FORWARDED)).status == 403
        assert (await post_as(house, house.url + ANSWER, FORWARDED)).status == 200


async def test_the_configured_url_wins_over_what_is_forwarded(tmp_path: Path):
    yaml = f"{ECHO}{TWILIO}server: {{public_url: '{PUBLIC}/', trusted_proxies: [127.0.0.1]}}\n"
    async with doors(tmp_path, yaml) as house:
        forwarded = {**FORWARDED, "X-Forwarded-Host": "evil.example"}
        assert (await post_as(house, "https://evil.example" + ANSWER, forwarded)).status == 403
        assert (await post_as(house, PUBLIC + ANSWER, forwarded)).status == 200


async def test_a_path_before_ours_that_the_proxy_strips_is_part_of_the_url(tmp_path: Path):
    yaml = f"{ECHO}{TWILIO}server: {{public_url: '{PUBLIC}/voice'}}\n"
    async with doors(tmp_path, yaml) as house:
        assert (await post_as(house, PUBLIC + ANSWER, {})).status == 403
        response = await post_as(house, f"{PUBLIC}/voice{ANSWER}", {})
        assert 'url="wss://voice.example/voice/telephony/ws/twilio"' in await response.text()


async def raw(house: Doors, request: str) -> str:
    """The status line of an answer to a request that no client library would send."""
    host, port = house.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.replace("\n", "\r\n").encode("latin-1"))
    line = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    return line.decode()


async def test_a_request_for_a_whole_url_is_no_way_around_the_signature(tmp_path: Path):
    async with doors(tmp_path) as house:
        other = "https://voice.example/other/app"
        signed = house.signature(other, FORM)["X-Twilio-Signature"]
        status = await raw(
            house,
            f"GET {other}/../..{ANSWER}?CallSid=CA1 HTTP/1.1\nHost: voice.example\n"
            f"X-Twilio-Signature: {signed}\n\n",
        )
        assert " 200 " not in status
        assert house.calls.count == 0


# --- without credentials --------------------------------------------------------------------------


async def test_without_credentials_this_machine_is_served(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house:
        async with house.call() as leg:
            await leg.say(b"\x22" * 160)
            assert await leg.hears(160) == b"\x22" * 160
        async with house.media("CA-no-webhook", {}) as leg:
            await leg.say(b"\x33" * 160)
            assert await leg.hears(160) == b"\x33" * 160


STRANGE = [
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-Host": "localhost"},
    {"X-Forwarded-Proto": "https"},
    {"Forwarded": "for=127.0.0.1"},
    {"Via": "1.1 tunnel"},
    {"X-Real-IP": "127.0.0.1"},
    {"CF-Connecting-IP": "127.0.0.1"},
    {"Host": "abc.ngrok.app"},
    {"Host": "voice.example:6210"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "[::ffff:8.8.8.8]:1"},
    {"Host": "localhost.evil.example"},
    {"Host": "["},
    {"Host": ""},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]
"""What a request carries that came through a tunnel, or from a page of another site."""


async def test_without_credentials_tunnels_and_web_pages_are_refused(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house:
        for headers in STRANGE:
            async with house.client.post(house.url + ANSWER, data=FORM, headers=headers) as answer:
                assert answer.status in (400, 403), headers
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await house.client.ws_connect(house.url + MEDIA, headers=headers)
            assert refused.value.status in (400, 403), headers
        assert house.calls.count == 0


async def test_without_credentials_http_1_0_is_taken_for_a_proxy(tmp_path: Path):
    async with doors(tmp_path, ECHO) as house:
        for version, status in (("1.0", " 403 "), ("1.1", " 200 ")):
            line = await raw(
                house, f"GET {ANSWER}?CallSid=CA1 HTTP/{version}\nHost: 127.0.0.1:6210\n\n"
            )
            assert status in line


async def test_without_credentials_a_trusted_proxy_is_not_this_machine(tmp_path: Path):
    yaml = ECHO + "server: {trusted_proxies: [127.0.0.0/8]}\n"
    async with doors(tmp_path, yaml) as house:
        answer = await house.ring(sign=False)
        assert answer.status == 403


# --- the media socket -----------------------------------------------------------------------------


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


async def test_a_token_is_used_once(tmp_path: Path):
    async with doors(tmp_path) as house:
        answer = await house.ring()
        async with house.media(answer.call_sid, answer.parameters):
            await house.settled(1)
        await house.settled(0)
        await refused(house, answer.call_sid, answer.parameters)


async def test_a_token_is_good_for_its_own_call_only_and_survives_the_attempt(tmp_path: Path):
    async with doors(tmp_path) as house:
        answer, other = await house.ring(), await house.ring()
        await refused(house, other.call_sid, answer.parameters)
        await refused(house, "", answer.parameters)
        async with house.media(answer.call_sid, answer.parameters):
            await house.settled(1)


async def test_a_token_expires(tmp_path: Path):
    async with doors(tmp_path) as house:
        answer = await house.ring()
        house.clock.now += 61
        await refused(house, answer.call_sid, answer.parameters)


async def test_another_carriers_token_is_refused(tmp_path: Path):
    async with doors(tmp_path) as house:
        await refused(house, "CA1", {"token": house.tokens.mint("telnyx", "CA1")})


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


# --- admission ------------------------------------------------------------------------------------


async def test_a_burst_of_twice_the_limit_accepts_exactly_the_limit(tmp_path: Path):
    async with doors(tmp_path, SIGNED + "limits: {max_calls: 20}\n") as house:
        answers = await asyncio.gather(*(house.ring() for _ in range(40)))
        verbs = [answer.verb for answer in answers]
        assert (verbs.count("Connect"), verbs.count("Reject")) == (20, 20)
        assert {answer.status for answer in answers} == {200}
        assert all('reason="busy"' in a.text for a in answers if a.verb == "Reject")
        assert house.calls.count == 20
        async with house.client.get(house.url + "/readyz") as response:
            assert (response.status, await response.json()) == (503, {"status": "full"})
        # Those that were accepted get their call.
        accepted = [answer for answer in answers if answer.verb == "Connect"]
        legs = [house.media(a.call_sid, a.parameters) for a in accepted]
        for leg in legs:
            await leg.__aenter__()
        await house.settled(20)
        assert (await house.ring()).verb == "Reject"
        for leg in legs:
            await leg.__aexit__(None, None, None)
        await house.settled(0)
        assert house.calls.count == 0


async def test_a_burst_of_sockets_without_webhooks_is_limited_too(tmp_path: Path):
    async with doors(tmp_path, ECHO + "limits: {max_calls: 3}\n") as house:
        legs = [house.media(new_sid(), {}) for _ in range(6)]
        opened = await asyncio.gather(*(leg.__aenter__() for leg in legs))
        await house.settled(3)
        codes = await asyncio.gather(
            *(asyncio.wait_for(leg.socket.receive(), 0.3) for leg in opened),
            return_exceptions=True,
        )
        refusals = [m.data for m in codes if isinstance(m, aiohttp.WSMessage)]
        assert refusals == [TRY_AGAIN_LATER] * 3
        for leg in legs:
            await leg.__aexit__(None, None, None)


async def test_a_place_that_nobody_takes_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(calls_module, "RESERVATION_S", 0.05)
    async with doors(tmp_path, SIGNED + "limits: {max_calls: 1}\n") as house:
        late = await house.ring()
        assert (await house.ring()).verb == "Reject"
        await asyncio.sleep(0.1)
        assert house.calls.count == 0
        # Its token is still good: it takes a free place.
        async with house.media(late.call_sid, late.parameters):
            await house.settled(1)


async def test_a_draining_server_answers_busy_and_keeps_its_promises(tmp_path: Path):
    async with doors(tmp_path) as house:
        promised = await house.ring()
        async with house.call() as leg:
            await house.settled(1)
            drain = asyncio.create_task(house.calls.drain(30))
            await asyncio.sleep(0)
            assert (await house.ring()).verb == "Reject"
            async with house.media(promised.call_sid, promised.parameters) as other:
                await other.say(b"\x05" * 160)
                assert await other.hears(160) == b"\x05" * 160
                await leg.socket.close()
                await house.settled(1)
                assert not drain.done()
        await asyncio.wait_for(drain, 5)
        assert house.calls.count == 0


async def test_draining_ends_what_does_not_end_by_itself(tmp_path: Path):
    async with doors(tmp_path) as house:
        await house.ring()  # its call never comes
        async with house.call() as leg:
            await house.settled(1)
            (session,) = house.calls.live.values()
            drain = asyncio.create_task(house.calls.drain(0.05))
            await leg.closed()
            await asyncio.wait_for(drain, 5)
            assert session.reason == ended.SERVER_DRAINED
            assert house.calls.count == 0


# --- ends -----------------------------------------------------------------------------------------


async def test_hanging_up_closes_the_socket(tmp_path: Path):
    async with doors(tmp_path) as house, twilio_rest("x") as rest, house.call() as leg:
        await house.settled(1)
        (session,) = house.calls.live.values()
        assert await house.calls.hang_up(session.id, ended.OPERATOR_HUNG_UP)
        assert await leg.closed() == 1000
        await house.settled(0)
        assert rest.attempts == 0
        record = await house.store.get_call(session.id)
        assert record is not None
        assert record.summary.ended_reason == ended.OPERATOR_HUNG_UP


@pytest.mark.parametrize("how", ["stop", "close", "reset"])
async def test_the_callers_end_is_the_calls_end(tmp_path: Path, how: str):
    async with doors(tmp_path) as house, house.call() as leg:
        await house.settled(1)
        (session,) = house.calls.live.values()
        if how == "stop":
            await leg.send(event="stop", stop={})
            await leg.closed()
        elif how == "close":
            await leg.socket.close()
        else:
            transport = leg.socket._response.connection.transport  # type: ignore[union-attr]
            assert transport is not None
            transport.abort()
        await house.settled(0)
        expected = ended.CARRIER_CLOSED if how == "reset" else ended.CALLER_HUNG_UP
        assert session.reason == expected


@pytest.mark.parametrize(
    ("statuses", "attempts", "moved"),
    [
        ([], 1, True),
        ([500], 2, True),
        ([0], 2, True),
        ([500, 500], 2, False),
        ([404], 1, False),
        ([401], 1, False),
    ],
    ids=["at-once", "after-a-fault", "after-a-drop", "never", "over-already", "refused"],
)
async def test_a_transfer_updates_the_call_before_the_socket_closes(
    tmp_path: Path, statuses: list[int], attempts: int, *, moved: bool
):
    async with (
        twilio_rest(AUTH_TOKEN) as rest,
        doors(tmp_path, SIGNED, api=rest.url) as house,
        house.call() as leg,
    ):
        rest.statuses = statuses
        await house.settled(1)
        (session,) = house.calls.live.values()
        open_at_update: list[bool] = []
        update = rest.update

        async def watched(request: Any) -> Any:
            open_at_update.append(not leg.socket.closed)
            return await update(request)

        rest.update = watched  # type: ignore[method-assign]
        session.pass_on(TransferTarget("desk", "+15550123"))
        await leg.closed()
        await house.settled(0)
        assert rest.attempts == attempts
        assert session.reason == ended.AGENT_TRANSFERRED
        assert len(rest.updates) == moved
        for made in rest.updates:
            assert made.form == {
                "Twiml": '<?xml version="1.0" encoding="UTF-8"?><Response>'
                '<Dial callerId="+15550199">+15550123</Dial><Hangup/></Response>'
            }


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


async def test_a_fault_inside_one_call_ends_only_that_call(tmp_path: Path):
    async with doors(tmp_path) as house, house.call() as good, house.call() as bad:
        await house.settled(2)
        victim, broken = house.calls.live.values()

        def explode(frame: object) -> None:
            raise ZeroDivisionError(frame)

        broken._entry = explode
        await bad.say(b"\x01" * 160)
        await bad.closed()
        await house.settled(1)
        assert broken.reason == ended.SERVER_ERROR
        await good.say(b"\x02" * 160)
        assert await good.hears(160) == b"\x02" * 160
        assert victim.reason is None


async def test_records_that_break_lose_one_call_and_not_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with doors(tmp_path) as house:

        async def broken(*_: object) -> None:
            raise OSError("disk")

        with monkeypatch.context() as patch:
            patch.setattr(house.store, "call_accepted", broken)
            async with house.call() as leg:
                await leg.closed()
        await house.free()
        assert not house.calls.live
        async with house.call() as leg:
            await leg.say(b"\x02" * 160)
            assert await leg.hears(160) == b"\x02" * 160


# --- everything at once ---------------------------------------------------------------------------

CALLS = 20
FRAMES = 150


async def test_twenty_calls_for_three_seconds_lose_no_frame(tmp_path: Path):
    async with doors(tmp_path) as house:

        async def one(number: int) -> int:
            frames = [bytes((number, n, number ^ n, 0x7F)) * 40 for n in range(FRAMES)]
            async with house.call() as leg:
                hearing = asyncio.create_task(leg.hears(FRAMES * 160, within_s=20))
                loop = asyncio.get_running_loop()
                begun = loop.time()
                for n, frame in enumerate(frames):
                    await leg.say(frame)
                    await asyncio.sleep(max(0.0, begun + (n + 1) * 0.02 - loop.time()))
                assert await hearing == b"".join(frames), number
            return number

        seen: list[Any] = []
        start = house.calls.start

        def watch(*args: Any, **kwargs: Any) -> Any:
            def note(event: object) -> None:
                if isinstance(event, events.CallStarted):
                    seen.append(house.calls.live[event.call_id])

            return start(*args, **{**kwargs, "subscribers": [note]})

        house.calls.start = watch  # type: ignore[method-assign]
        assert await asyncio.gather(*map(one, range(CALLS))) == list(range(CALLS))
        await house.settled(0)
        assert [session.frames_in for session in seen] == [FRAMES] * CALLS
        assert {session.reason for session in seen} == {ended.CALLER_HUNG_UP}
        assert house.calls.count == 0


async def test_odd_but_readable_messages_do_not_lose_the_call(tmp_path: Path):
    async with doors(tmp_path) as house:
        answer = await house.ring()
        async with house.client.ws_connect(house.url + MEDIA) as socket:
            start = {
                "accountSid": None,
                "callSid": answer.call_sid,
                "tracks": "inbound",
                "customParameters": {**answer.parameters, "n": 1, "x": None, "deep": {"a": []}},
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": "8000", "channels": "1"},
            }
            await socket.send_json({"event": "start", "streamSid": "MZ1", "start": start})
            payload = base64.b64encode(b"\x44" * 160).decode()
            await socket.send_json(
                {"event": "media", "streamSid": None, "media": {"track": None, "payload": payload}}
            )
            message = json.loads(await asyncio.wait_for(socket.receive_str(), 5))
            assert base64.b64decode(message["media"]["payload"]) == b"\x44" * 160
