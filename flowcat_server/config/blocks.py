"""Bases of every block of the agent file."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class Block(BaseModel):
    """A block of our own: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)

    flowcats: ClassVar[bool] = False
    """True for Flowcat's own blocks, where an unknown key is only a warning, as Flowcat itself
    ignores it."""


class FlowcatBlock(Block):
    """A block that Flowcat knows too."""

    model_config = ConfigDict(extra="ignore")

    flowcats = True


def written_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A block's fields by their keys in the file, which may be words that Python reserves."""
    return {field.alias or name: field for name, field in model.model_fields.items()}
