"""What the doors say to who is refused; `doctor` knows them again."""

from __future__ import annotations

SIGNATURE = "signature does not match"
REPLAYED = "replayed"
PASSWORD = "user and password do not match"  # noqa: S105 - a sentence
NO_CALL = "the call's id is missing or cannot be used"


def not_allowed(carrier: str) -> str:
    """The peer's address is none of those that are let in."""
    return f"not in carriers.{carrier}.allow_from"


def not_configured(credential: str) -> str:
    """Without a credential only this machine is served."""
    return f"{credential} is not configured"
