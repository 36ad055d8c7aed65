"""The parts of the WebRTC benchmark that can be wrong without anybody noticing."""

from __future__ import annotations

import argparse
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from bench.webrtc import arrived, report, voice
from bench.webrtc.point import Point, read
from bench.webrtc.running import Running
from bench.webrtc.subjects import SUBJECTS
from bench.wire import plot
from flowcat_server.transports.webrtc import opus

ROOT = Path(__file__).resolve().parents[2]
needs_opus = pytest.mark.skipif(opus.library() is None, reason="no libopus on this machine")
SPREAD = {"count": 100, "p50": 400, "p90": 900, "p95": 1000, "p99": 5000, "p999": 9000, "max": 9500}
GOOD: dict[str, Any] = {
    "calls": 10, "seconds": 4, "live": 10, "closed": 0, "refusal": "", "setup_s": 1.0,
    "packets": 2000, "expected": 2000, "lost": 0, "skipped": 0, "silent": 0, "cpu_s": 0.4,
    "rss_kb": 50_000, "lateness": SPREAD, "own_lateness": {**SPREAD, "p99": 300},
    "likeness": 0.9, "echo_ms": 60.0, "spoke": 0.8,
}  # fmt: skip


def point(**change: Any) -> Point:
    return read({**GOOD, **change}, echoes=True)


# --- a point ------------------------------------------------------------------------------------


def test_a_good_point_is_held():
    good = point()
    assert good.held
    assert not good.noisy
    assert good.us_per_frame == pytest.approx(200)
    assert good.core == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"lost": 1}, "1 lost"),
        ({"closed": 1}, "1 closed"),
        ({"silent": 2}, "2 silent"),
        ({"live": 9}, "1 calls not up"),
        ({"refusal": "503 full"}, "503 full"),
        ({"skipped": 21}, "21 pieces left out"),
        ({"lateness": {**SPREAD, "p99": 20_001}}, "packets p99 20.0 ms"),
        ({"lateness": None, "packets": 0}, "no packets"),
        ({"likeness": 0.3}, "what came back is not what was said (0.30)"),
    ],
)
def test_every_fault_is_named(change: dict[str, Any], fault: str):
    assert fault in point(**change).faults


def test_of_an_agent_that_does_not_echo_no_echo_is_wanted():
    assert read({**GOOD, "likeness": 0.0}, echoes=False).held


def test_a_generator_that_is_late_itself_says_so():
    assert point(own_lateness=SPREAD).noisy


# --- what came ----------------------------------------------------------------------------------


def media(*packets: tuple[int, int, float]) -> arrived.Media:
    """Sequence number, timestamp, and the second of arrival."""
    return [
        (
            struct.pack("qq", 1_000 + int(at), round(at % 1 * 1e9)),
            struct.pack("!BBHII", 0x80, 111, seq & 0xFFFF, ticks & 0xFFFFFFFF, 7),
        )
        for seq, ticks, at in packets
    ]


def test_packets_are_late_against_their_own_timestamps_across_a_wrap():
    stream = arrived.read(
        media(
            (65_534, 2**32 - 960, 0.005),
            (65_535, 0, 0.020),
            (65_536, 960, 0.052),
            (65_537, 1_920, 0.060),
        )
    )
    assert list(np.round(stream.late * 1000)) == [5, 0, 12, 0]
    assert (stream.lost, stream.skipped) == (0, 0)


def test_what_is_lost_is_told_from_what_was_never_sent():
    lost = arrived.read(media((1, 0, 0), (2, 960, 0.02), (4, 2_880, 0.06)))
    assert (lost.lost, lost.skipped) == (1, 0)
    skipped = arrived.read(media((1, 0, 0), (2, 960, 0.02), (3, 2_880, 0.06)))
    assert (skipped.lost, skipped.skipped) == (0, 1)
    assert len(arrived.read([]).late) == 0


@needs_opus
def test_a_caller_speaks_and_falls_silent():
    said = voice.speak(1_600, 3_200)
    assert len(said.packets) == voice.SECONDS * 50
    assert {opus.packet_ticks(packet) for packet in said.packets} == {960}
    second = round(1 / arrived.HOP_S)
    assert np.median(said.loudness[:second]) > arrived.SPOKEN
    assert said.loudness[2 * second : 3 * second].max() < arrived.SPOKEN


# --- the table ----------------------------------------------------------------------------------


def measured(name: str, *calls: int) -> report.Measured:
    points = tuple(point(calls=n, live=n) for n in (10, *calls))
    return report.Measured(name, f"**{name}**", points, 400.0)


def test_the_table_shows_the_best_held_point_and_the_ratio():
    bad = point(calls=90, live=90, lost=3)
    later = point(calls=36, live=36)
    ours = measured("ours", 32)
    results = [
        measured("stock", 18),
        report.Measured("ours", "ours", (*ours.points, bad, later), ours.kb_per_call),
    ]
    text = report.page(results, argparse.Namespace(seconds=8, nice=0))
    assert "| ours | 36 | 2.0 | 0.4 / 5.0 / 10 | 200 / 56 | 400 | 60 |" in text
    assert "provisional" not in text


def test_a_server_that_holds_nothing_has_a_row_too():
    none = report.Measured("x", "x", (point(lost=1),), 0)
    text = report.page([none], argparse.Namespace(seconds=8, nice=0))
    assert "| x | fewer than 10 |" in text


def test_the_page_has_room_for_the_table():
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for mark in (report.BEGIN, report.END):
        assert page.count(mark) == 1


def test_the_picture_is_well_formed():
    drawing = plot.bars(report.TITLE, report.HELD, [("stock", "a & b", 16), ("ours", "*c*", 32)])
    root = ElementTree.fromstring(drawing)
    assert len(root.findall("{http://www.w3.org/2000/svg}rect")) == 2


# --- servers ------------------------------------------------------------------------------------

TRIES = 3
"""What comes seconds late on a machine that is busy with other things is no echo."""


def served(name: str, calls: int, seconds: int) -> Point:
    subject = next(each for each in SUBJECTS if each.name == name)
    with Running(subject) as server:
        for _ in range(TRIES):
            seen = server.browsers(calls, seconds, 2)
            if not important(seen):
                break
        assert server.rss_kb() > 1000
    return seen


def important(seen: Point) -> list[str]:
    """Faults that are not of a busy machine."""
    return [fault for fault in seen.faults if "p99" not in fault and "left out" not in fault]


@needs_opus
@pytest.mark.e2e
@pytest.mark.parametrize("name", ["stock", "ours"])
def test_three_browsers_hear_what_they_said(name: str):
    seen = served(name, 3, 4)
    assert important(seen) == []
    assert seen.lateness is not None
    assert seen.lateness.count >= 3 * 3 * 50
    assert seen.cpu_s > 0
    assert 0 < seen.echo_ms < 1_000


@needs_opus
@pytest.mark.e2e
def test_agents_answer_their_callers():
    seen = served("ours-agents", 2, 12)
    assert important(seen) == []
    assert seen.spoke > 0.2
