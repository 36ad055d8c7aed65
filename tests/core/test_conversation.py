"""The model's view: what was heard, in order, tool results behind their calls."""

from __future__ import annotations

import pytest

from flowcat_server.core.audio import MULAW_8K
from flowcat_server.core.conversation import Conversation
from flowcat_server.core.interfaces import Message, ToolCall
from flowcat_server.core.playout import Playout

CALL = ToolCall("c1", "look_up", {})


class Talk:
    """A conversation with its ledger; a word takes 100 ms."""

    def __init__(self, max_messages: int = 200) -> None:
        self.playout = Playout(MULAW_8K, delay_ms=0, marks=True)
        self.conversation = Conversation(self.playout, max_messages)

    def reply(self, turn: int, *sentences: str) -> None:
        if self.playout.reply(turn) is None:
            self.playout.begin(turn)
            self.conversation.reply_begins(turn)
        for text in sentences:
            piece = self.playout.add_piece(turn, text)
            assert piece is not None
            self.playout.push(turn, piece, bytes(800 * len(text.split())), 0)
            self.playout.piece_complete(turn, piece)

    def interrupt(self, after_ms: int) -> None:
        self.playout.pull(0, 1_000_000)
        self.playout.clear(after_ms)

    @property
    def seen(self) -> list[tuple[str, str]]:
        return [(message.role, message.text) for message in self.conversation.messages()]


def test_a_reply_under_way_counts_as_said():
    talk = Talk()
    talk.conversation.caller("hi")
    talk.reply(1, "One two.", "Three.")
    assert talk.seen == [("user", "hi"), ("assistant", "One two. Three.")]


def test_words_of_the_caller_that_are_told_late_stand_before_their_answer():
    talk = Talk()
    talk.conversation.caller("hi", 1)
    talk.reply(1, "Hello.")
    talk.reply(2, "Let me look.")
    talk.conversation.tool_round(2, [CALL], ["nine"])
    talk.reply(2, "At nine.")
    talk.conversation.caller("when?", 2)
    assert talk.seen == [
        ("user", "hi"),
        ("assistant", "Hello."),
        ("user", "when?"),
        ("assistant", "Let me look."),
        ("tool", "nine"),
        ("assistant", "At nine."),
    ]


def test_the_last_message_may_be_of_a_reply_that_is_still_being_heard():
    talk = Talk()
    assert talk.conversation.open_end() is None
    talk.reply(1)
    assert talk.conversation.open_end() is None, "nothing was said yet"
    talk.reply(1, "Let me look.")
    talk.conversation.tool_round(1, [CALL], ["nine"])
    talk.reply(1, "At nine.")
    reply, first = talk.conversation.open_end() or (None, 0)
    assert reply is talk.playout.reply(1)
    assert first == 1
    talk.interrupt(100)
    assert talk.conversation.open_end() is None


def test_an_interrupted_reply_ends_at_the_heard_word_and_says_so():
    talk = Talk()
    talk.reply(1, "aaa bbb ccc ddd.")
    talk.interrupt(210)
    assert talk.conversation.messages() == [Message("assistant", "aaa bbb", interrupted=True)]


def test_a_reply_of_which_nothing_was_heard_is_absent():
    talk = Talk()
    talk.conversation.caller("hi")
    talk.reply(1, "One two.")
    talk.playout.clear(0)
    assert talk.seen == [("user", "hi")]


def test_words_before_and_after_a_tool_stand_on_their_side_of_it():
    talk = Talk()
    talk.reply(1, "Let me look.")
    talk.conversation.tool_round(1, [CALL], ["nine"])
    talk.reply(1, "It is nine.")
    assert talk.seen == [
        ("assistant", "Let me look."),
        ("tool", "nine"),
        ("assistant", "It is nine."),
    ]


def test_what_the_caller_says_while_a_tool_runs_comes_after_its_result():
    talk = Talk()
    talk.reply(1, "Let me look.")
    talk.conversation.caller("and quickly")
    talk.conversation.tool_round(1, [CALL], ["nine"])
    talk.reply(1, "Nine.")
    roles = [role for role, _ in talk.seen]
    assert roles == ["assistant", "tool", "assistant", "user"]


def test_a_tool_call_stays_though_its_words_were_not_heard():
    talk = Talk()
    talk.reply(1, "Let me look.")
    talk.playout.clear(0)
    talk.conversation.tool_round(1, [CALL], ["nine"])
    first, result = talk.conversation.messages()
    assert (first.text, first.tool_calls) == ("", (CALL,))
    assert (result.role, result.tool_call_id) == ("tool", "c1")


def test_an_interruption_cuts_both_sides_of_a_tool():
    talk = Talk()
    talk.reply(1, "aaa bbb.")
    talk.conversation.tool_round(1, [CALL], ["nine"])
    talk.reply(1, "ccc ddd eee fff.")
    talk.interrupt(310)
    messages = talk.conversation.messages()
    assert [(m.text, m.interrupted) for m in messages if m.role == "assistant"] == [
        ("aaa bbb.", False),
        ("ccc", True),
    ]


def test_two_replies_under_way_keep_their_tools_apart():
    talk = Talk()
    talk.reply(1, "One.")
    talk.conversation.caller("more")
    talk.reply(2, "Two.")
    talk.conversation.tool_round(1, [CALL], ["nine"])
    assert talk.seen == [
        ("assistant", "One."),
        ("tool", "nine"),
        ("user", "more"),
        ("assistant", "Two."),
    ]


@pytest.mark.parametrize("most", range(1, 8))
def test_a_long_conversation_never_begins_with_a_lost_result(most: int):
    talk = Talk(most)
    for turn in range(1, 6):
        talk.conversation.caller(f"caller {turn}")
        talk.reply(turn, "Look.")
        talk.conversation.tool_round(turn, [CALL], ["nine"])
        talk.reply(turn, "Nine.")
    messages = talk.conversation.messages()
    assert len(messages) <= most
    assert not messages or messages[0].role != "tool"


def test_a_reply_has_to_have_begun():
    with pytest.raises(ValueError, match="reply 7"):
        Talk().conversation.reply_begins(7)
