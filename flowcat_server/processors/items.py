"""What a speech-to-speech session says, piece by piece, on its way into the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from flowcat_server.core import events
from flowcat_server.core.audio import Transcoder
from flowcat_server.core.frames import AgentText, AudioOut, PieceEnded
from flowcat_server.core.playout import Playout
from flowcat_server.core.processor import Processor
from flowcat_server.core.sentences import SentenceSplitter
from flowcat_server.processors.call import Call

ITEMS_KEPT = 32
"""What the vendor says of older items is of no interest any more."""


@dataclass(slots=True)
class Item:
    """One item of a response: a piece of a reply."""

    turn: int
    piece: int
    splitter: SentenceSplitter = field(default_factory=SentenceSplitter)
    space: str = ""
    """White space at the end of the text so far."""


class Items:
    """The items of the session under way, by the vendor's names."""

    def __init__(self, call: Call, playout: Playout, processor: Processor) -> None:
        """`processor` is the one whose frames these are."""
        self._call = call
        self._playout = playout
        self._processor = processor
        self._items: dict[str, Item | None] = {}
        """None: nobody is to hear it."""

    def connect(self, transcoder: Transcoder) -> None:
        """A session begins; its audio goes through this."""
        self._items.clear()
        self._transcoder = transcoder

    def __contains__(self, name: str) -> bool:
        return name in self._items

    def get(self, name: str) -> Item | None:
        """An item that is known and was not dropped."""
        return self._items.get(name)

    def add(self, name: str, turn: int) -> Item:
        """A new piece of a reply."""
        reply = self._playout.reply(turn)
        item = Item(turn, len(reply.pieces) if reply is not None else 0)
        self._keep(name, item)
        self._processor.emit(AgentText(turn, "", self._call.now_ms()))
        return item

    def drop(self, name: str) -> None:
        """Nobody is to hear it."""
        self._keep(name, None)

    def sound(self, item: Item, audio: bytes) -> None:
        """Audio of an item."""
        self._processor.emit_out(AudioOut(item.turn, self._transcoder.feed(audio), item.piece))

    def write(self, item: Item, text: str) -> None:
        """Text of an item: into the ledger at once, to the world sentence by sentence."""
        reply = self._playout.reply(item.turn)
        if reply is not None and not reply.pieces[item.piece].text:
            text = text.lstrip()
        text = item.space + text
        words = text.rstrip()
        item.space = text[len(words) :]
        if words:
            self._playout.extend_piece(item.turn, item.piece, words)
            for sentence in item.splitter.feed(words):
                self._publish(item.turn, sentence)

    def end(self, turn: int, broken: int | None = None) -> None:
        """A response of this reply has ended: so have its texts and its audio.

        `broken` is the piece in which it broke off.
        """
        mine = [item for item in self._items.values() if item is not None and item.turn == turn]
        for item in mine:
            self._publish(turn, item.splitter.flush())
        if mine:
            rest = self._transcoder.flush()
            if rest:
                self._processor.emit(AudioOut(turn, rest, mine[-1].piece))
        for item in mine:
            if item.piece == broken:
                self._playout.cut_short(turn, item.piece)
            else:
                self._processor.emit(PieceEnded(turn, item.piece))

    def cut(self) -> Iterator[tuple[str, int]]:
        """The caller interrupts: of each item under way, how many milliseconds were heard."""
        now = self._call.now_ms()
        self._transcoder.flush()
        for name, item in self._items.items():
            heard = self._playout.heard_so_far_ms(item.turn, now) if item is not None else []
            if item is not None and item.piece < len(heard):
                yield name, heard[item.piece]

    def _keep(self, name: str, item: Item | None) -> None:
        if len(self._items) >= ITEMS_KEPT:
            del self._items[next(iter(self._items))]
        self._items[name] = item

    def _publish(self, turn: int, sentence: str) -> None:
        if sentence:
            self._call.publish(events.AgentText(self._call.now_ms(), turn, sentence))
