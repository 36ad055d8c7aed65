"""From a document to a `Config`, collecting every mistake on the way."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from flowcat_server.config.blocks import Block, written_fields
from flowcat_server.config.document import Document, Path, split_short_form
from flowcat_server.config.explain import explain
from flowcat_server.config.models import Carriers, Config
from flowcat_server.config.suggest import did_you_mean, listed
from flowcat_server.config.topology import ProviderSpec
from flowcat_server.errors import Problem


def validate(document: Document, *, refuse_unknown: bool) -> tuple[Config | None, list[Problem]]:
    """Build the configuration; None if there are errors.

    Unknown keys in Flowcat's own blocks are warnings unless `refuse_unknown`.
    """
    walk = _Walk(document, refuse_unknown)
    raw = document.value if document.value is not None else {}
    if not isinstance(raw, dict):
        message = "the file must be a block of keys: agent, topology, ..."
        return None, [document.problem((), message)]
    cleaned = walk.block(Config, raw, ())
    config: Config | None = None
    try:
        config = Config.model_validate(cleaned)
    except ValidationError as error:
        walk.problems += [_located(document, entry) for entry in error.errors()]
    if any(not problem.warning for problem in walk.problems):
        config = None
    return config, walk.problems


def _located(document: Document, entry: Any) -> Problem:
    path: Path = tuple(entry["loc"])
    while path and path[-1] == "[key]":
        path = path[:-1]
    return document.problem(path, explain(entry, path))


class _Walk:
    """Goes through the raw values beside the models, which know what is allowed."""

    def __init__(self, document: Document, refuse_unknown: bool) -> None:
        self.problems: list[Problem] = []
        self._document = document
        self._refuse_unknown = refuse_unknown

    def block(self, model: type[BaseModel], raw: Any, path: Path) -> Any:
        """A copy of `raw` without unknown keys, and without keys left empty."""
        if isinstance(raw, str) and model is ProviderSpec:
            return split_short_form(raw)
        if not isinstance(raw, dict):
            return raw
        cleaned: dict[str, Any] = {}
        fields = written_fields(model)
        for name, value in raw.items():
            field = fields.get(name)
            here = (*path, name)
            if field is None:
                self._unknown(model, name, here)
            elif value is not None:
                cleaned[name] = self._value(field.annotation, value, here)
        return cleaned

    def _value(self, annotation: Any, value: Any, path: Path) -> Any:
        many, model = _inner(annotation)
        if model is None:
            return value
        if many and isinstance(value, list):
            return [self.block(model, item, (*path, n)) for n, item in enumerate(value)]
        return value if many else self.block(model, value, path)

    def _unknown(self, model: type[BaseModel], name: str, path: Path) -> None:
        if len(path) == 1 and name.startswith("x-"):
            return  # a place for anchors, as in Compose files
        known = list(written_fields(model))
        what = "carrier" if model is Carriers else "key"
        message = (
            f"unknown {what} {name[:60]!r}{did_you_mean(name, known)} (known: {listed(known)})"
        )
        ours = not (issubclass(model, Block) and model.flowcats)
        warning = not (ours or self._refuse_unknown)
        self.problems.append(self._document.problem(path, message, key=True, warning=warning))


def _inner(annotation: Any) -> tuple[bool, type[BaseModel] | None]:
    """The model inside an annotation, and whether there is a list of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return False, annotation
    many = get_origin(annotation) is list
    for argument in get_args(annotation):
        inside, model = _inner(argument)
        if model is not None:
            return many or inside, model
    return False, None
