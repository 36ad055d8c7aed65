"""What vendors say about failures: readable, classified, without keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.errors import (
    ProviderBusy,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)
from flowcat_server.providers.faults import error_text, redact, stream_error


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abcdefghij1234.",
        "Incorrect API key provided: sk-proj-********************1234.",
        "header was Bearer abcdefghijkl",
        "key gsk_abcdefghijklmnop is unknown",
        "API key AIzaSyA1234567890abc not valid",
        "we got my-own-secret here",
    ],
)
def test_keys_are_not_repeated(text: str):
    shown = redact(text, "my-own-secret")
    assert "[key]" in shown
    assert not any(part in shown for part in ("1234", "abcdef", "AIza", "my-own-secret"))


@pytest.mark.parametrize(
    "text", ["The model gpt-6-luna does not exist", "a task-oriented reply", "risk-free api_key"]
)
def test_ordinary_words_are_left(text: str):
    assert redact(text, "") == text


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":{"message":"no","type":"T","code":"c"}}', ("no", "t c")),
        (b'{"error":"no"}', ("no", "")),
        (b'{"message":"no"}', ("no", "")),
        (b'{"detail":"no"}', ("no", "")),
        (b'{"detail":[{"loc":["a"]}]}', ('[{"loc":["a"]}]', "")),
        (
            b'{"type":"error","error":{"type":"overloaded_error","message":"no"}}',
            ("no", "overloaded_error"),
        ),
        (b'[{"error":{"message":"no","status":"X"}}]', ("no", "x")),
        (b"plain words", ("plain words", "")),
        (b"<html>long page</html>", ("", "")),
        (b"", ("", "")),
        (b"null", ("", "")),
    ],
)
def test_reads_the_shapes_in_which_vendors_refuse(body: bytes, expected: tuple[str, str]):
    assert error_text(body) == expected


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"type": "overloaded_error"}, ProviderUnavailable),
        ({"type": "server_error"}, ProviderUnavailable),
        ({"code": 502}, ProviderUnavailable),
        ({"code": 429}, ProviderBusy),
        ({"code": "rate_limit_exceeded"}, ProviderBusy),
        ({"status": "RESOURCE_EXHAUSTED"}, ProviderBusy),
        ({"type": "insufficient_quota", "code": 429}, ProviderRefused),
        ({"type": "invalid_request_error", "code": "context_length_exceeded"}, ProviderRefused),
        ({"type": "not_found_error"}, ProviderRefused),
        ("anything", ProviderUnavailable),
        (None, ProviderUnavailable),
    ],
)
def test_errors_inside_a_stream_are_classified(error: object, kind: type[ProviderError]):
    assert type(stream_error("vendor", {"error": error}, "")) is kind


@given(st.binary(max_size=200))
def test_any_body_can_be_read(body: bytes):
    message, words = error_text(body)
    assert isinstance(message, str)
    assert isinstance(words, str)
