"""``${NAME}`` in strings of the agent file: the environment, read once at load.

``${NAME}``            the variable; unset is an error
``${NAME:-default}``   the variable, or the default where it is unset or empty
``${NAME:?message}``   the variable; unset or empty is an error with this message
``$$``                 a dollar sign, for ``$${`` to stay as it is
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_OPENING = re.compile(r"\$(\$|\{)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_DEPTH = 8


class UnsetVariable(ValueError):
    """``${NAME}`` without a default, and the variable is not set."""


def expand(text: str, environ: Mapping[str, str], depth: int = 0) -> str:
    """Fill in the variables of a text.

    Raises `UnsetVariable`, or `ValueError` for a reference that cannot be read.
    """
    if "$" not in text:
        return text
    parts: list[str] = []
    position = 0
    while opening := _OPENING.search(text, position):
        parts.append(text[position : opening.start()])
        position = opening.end()
        if opening[1] == "$":
            parts.append("$")
            continue
        end = _closing(text, position)
        parts.append(_reference(text[position:end], environ, depth))
        position = end + 1
    parts.append(text[position:])
    return "".join(parts)


def _closing(text: str, position: int) -> int:
    """Where the brace that was opened before `position` is closed."""
    level = 1
    for index in range(position, len(text)):
        if text[index] == "{":
            level += 1
        elif text[index] == "}":
            level -= 1
            if level == 0:
                return index
    raise ValueError("${ is never closed; write $${ for the two characters themselves")


def _reference(inside: str, environ: Mapping[str, str], depth: int) -> str:
    name = _NAME.match(inside)
    rest = inside[name.end() :] if name else ""
    if name is None or (rest and not rest.startswith((":-", ":?"))):
        raise ValueError(
            f"${{{inside[:40]}}} is not a variable: write ${{NAME}}, ${{NAME:-default}} or "
            "${NAME:?message}, and $${ for the two characters themselves"
        )
    value = environ.get(name[0])
    if value and _is_text(value):
        return value
    if not rest:
        if value is None:
            raise UnsetVariable(
                f"the environment variable {name[0]} is not set (${{{name[0]}:-default}} "
                "gives it a default)"
            )
        return ""
    if rest.startswith(":?"):
        raise UnsetVariable(rest[2:].strip() or f"the environment variable {name[0]} is not set")
    if depth == _MAX_DEPTH:
        raise ValueError("defaults are nested too deeply")
    return expand(rest[2:], environ, depth + 1)


def _is_text(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)
