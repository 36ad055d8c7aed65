"""What of a model's text may be spoken: no reasoning, no notes meant for the model only."""

from __future__ import annotations

INTERRUPTED = "[interrupted by the caller]"
"""Stands behind the heard part of an assistant message that the caller cut off.

It is visible to the model on purpose: so it knows that the rest was not heard. Models imitate what
stands in their own messages, so the same text is taken out of what they answer.
"""

_SPANS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "[THINK]": "[/THINK]",  # Mistral's reasoning models
}
_SINGLE = (INTERRUPTED, *_SPANS.values())
"""Dropped by themselves. A closing tag alone: the opening one stood in the model's template."""
_MARKS = (*_SPANS, *_SINGLE)
_STARTS = frozenset(mark[0] for mark in _MARKS)


class VisibleText:
    """Takes text in pieces and returns what may be spoken of it.

    Marks may be cut anywhere between two pieces, so the beginning of a mark is held back until
    it is decided. White space before the first visible text is dropped.
    """

    __slots__ = ("_begun", "_rest", "_until")

    def __init__(self, *, thinking: bool = False) -> None:
        """`thinking`: the text begins inside a reasoning span, without its opening tag."""
        self._rest = ""
        self._until = "</think>" if thinking else ""
        self._begun = False

    def feed(self, piece: str) -> str:
        """Take the next piece; return the text that is now certain."""
        self._rest += piece
        out: list[str] = []
        while self._rest:
            taken = self._skip_span() if self._until else self._take(out)
            if not taken:
                break
        return self._trim("".join(out))

    def flush(self) -> str:
        """The text is over: return what was held back, unless it is reasoning."""
        rest, self._rest = self._rest, ""
        return "" if self._until else self._trim(rest)

    def _skip_span(self) -> bool:
        end = self._rest.find(self._until)
        if end < 0:
            self._rest = self._rest[-(len(self._until) - 1) :]
            return False
        self._rest = self._rest[end + len(self._until) :]
        self._until = ""
        return True

    def _take(self, out: list[str]) -> bool:
        """Move text to `out` up to the next mark; False when more text is needed."""
        rest = self._rest
        for at, char in enumerate(rest):
            if char not in _STARTS:
                continue
            tail = rest[at : at + len(INTERRUPTED)]
            mark = next((mark for mark in _MARKS if tail.startswith(mark)), "")
            if mark:
                out.append(rest[:at])
                self._rest = rest[at + len(mark) :]
                self._until = _SPANS.get(mark, "")
                return True
            if at + len(tail) == len(rest) and any(mark.startswith(tail) for mark in _MARKS):
                out.append(rest[:at])
                self._rest = rest[at:]
                return False
        out.append(rest)
        self._rest = ""
        return False

    def _trim(self, text: str) -> str:
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        return text
