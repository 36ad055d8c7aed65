"""Answer documents in XML, with hostile values kept values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.sax.saxutils import escape, quoteattr

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped (section 2.2)."""


def element(name: str, attributes: Mapping[str, str], inner: str = "") -> str:
    """An element; `inner` is markup already."""
    written = "".join(f" {key}={attribute(value)}" for key, value in attributes.items())
    return f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>"


def attribute(value: str) -> str:
    """A value in quotes."""
    return quoteattr(_NOT_XML.sub("", value))


def content(value: str) -> str:
    """A value as the text of an element."""
    return escape(_NOT_XML.sub("", value))


def document(body: str, root: str = "Response") -> str:
    """A whole document."""
    return f'<?xml version="1.0" encoding="UTF-8"?><{root}>{body}</{root}>'
