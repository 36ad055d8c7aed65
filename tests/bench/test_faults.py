"""The fault matrix: nobody is silent, whatever breaks, and the books stay true."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from bench.faults import report
from bench.faults.cells import CELLS, FAULTS, LONGEST_MS, Cell, Result, Stage, interrupted
from bench.faults.cells import run as run_cell
from flowcat_server.providers.drills import Fault

ROOT = Path(__file__).resolve().parents[2]
RECOVERS = ("slow",)

run = cache(run_cell)


@pytest.mark.parametrize("cell", CELLS, ids=str)
class TestCell:
    def test_the_caller_is_never_left_in_silence(self, cell: Cell):
        assert run(cell).silence_ms <= LONGEST_MS

    def test_the_call_goes_on_or_ends_for_a_reason(self, cell: Cell):
        result = run(cell)
        if cell.fallback or cell.stage == "tool" or cell.fault in RECOVERS:
            assert result.answered == (True, True)
            assert result.ended == ""
            return
        assert not all(result.answered) or not result.answered
        assert result.ended.startswith(f"provider.failed ({cell.stage} ")
        assert result.ended_ms is not None

    def test_the_books_are_true_and_nothing_is_left(self, cell: Cell):
        assert run(cell).faults == ()


def test_the_matrix_has_every_stage_and_fault():
    assert len(CELLS) == 5 * 7 * 2 - 7


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("first_token_ms", [400, 900])
def test_a_model_that_takes_its_time_leaves_less_of_it_to_the_voice(
    fault: Fault, first_token_ms: int
):
    result = run(Cell("tts", fault, True, first_token_ms))
    assert result.silence_ms <= LONGEST_MS
    assert result.answered == (True, True)
    assert result.faults == ()


@pytest.mark.parametrize("fault", ["half_dead", "garbage", "close", "hang"])
@pytest.mark.parametrize("stage", ["tts", "realtime"])
def test_whoever_cuts_in_on_a_broken_sentence_leaves_the_books_true(stage: Stage, fault: Fault):
    for at_ms in range(400, 5000, 200):
        assert interrupted(Cell(stage, fault, True), at_ms) == (), at_ms


def test_a_call_that_is_given_up_is_not_ended_without_a_word():
    for cell in CELLS:
        result: Result = run(cell)
        if result.ended:
            assert result.heard[-1].endswith("Please call again a little later."), cell


def test_the_table_in_the_docs_is_current():
    page = (ROOT / "docs" / "explanation" / "when-a-provider-fails.md").read_text(encoding="utf-8")
    assert report.table({cell: run(cell) for cell in CELLS}) in page, "run: make docs"
