"""Twilio's webhooks on a real socket: who gets in, and what is answered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from twilio.request_validator import RequestValidator

from tests.fakes.doors import (
    AUTH_TOKEN,
    ECHO,
    PUBLIC,
    SIGNED,
    TWILIO,
    Doors,
    doors,
)

ANSWER = "/telephony/answer/twilio"
MEDIA = "/telephony/ws/twilio"


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
