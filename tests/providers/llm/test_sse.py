"""The event stream grammar, however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.providers.llm import _sse
from flowcat_server.providers.llm._sse import SseEvent, SseParser

STREAM = (
    b"\xef\xbb\xbf: comment\r\n\r\n"
    b"data: one\n\n"
    b"event: error\rdata:two\rdata:  three\r\r"
    b'id: 7\r\nretry: 10\r\ndata: {"a": "\xe2\x82\xac"}\r\n\r\n'
    b"event: nothing\n\n"
    b"data\n\n"
    b"data: never completed"
)
EVENTS = [
    SseEvent("one"),
    SseEvent("two\n three", "error"),
    SseEvent('{"a": "€"}'),
    SseEvent(""),
]


def parse(*chunks: bytes) -> list[SseEvent]:
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_reads_every_form_of_line_field_and_comment():
    assert parse(STREAM) == EVENTS


@pytest.mark.parametrize("at", range(len(STREAM)))
def test_a_cut_at_any_byte_changes_nothing(at: int):
    assert parse(STREAM[:at], STREAM[at:]) == EVENTS


def test_single_bytes_give_the_same_events():
    assert parse(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == EVENTS


LINE = st.sampled_from(
    [b"data: x", b"data", b":", b"event: e", b"", b"\xef\xbb\xbf", b"d", b"data:"]
)
END = st.sampled_from([b"\n", b"\r", b"\r\n", b""])


@given(st.lists(st.tuples(LINE, END)), st.data())
def test_events_do_not_depend_on_the_cuts(parts: list[tuple[bytes, bytes]], data: st.DataObject):
    stream = b"".join(line + end for line, end in parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    pieces = [stream[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert parse(*pieces) == parse(stream)


@given(st.lists(st.binary()))
def test_any_bytes_are_events_or_a_value_error(chunks: list[bytes]):
    try:
        parse(*chunks)
    except ValueError:
        return


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_sse, "MAX_EVENT_BYTES", 100)
    with pytest.raises(ValueError, match="100 bytes"):
        parse(*[b"data: " + b"x" * 20] * 6)


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_sse, "MAX_EVENT_BYTES", 100)
    with pytest.raises(ValueError, match="100 bytes"):
        parse(b"data: 123456789\n" * 20)


def test_a_long_line_in_single_bytes_is_scanned_once():
    parser = SseParser()
    for _ in range(20_000):
        assert list(parser.feed(b"xxxxxxxxxx")) == []
    assert list(parser.feed(b"\ndata: y\n\n")) == [SseEvent("y")]
