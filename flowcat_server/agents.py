"""The agents of a server, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flowcat_server.pipeline import Parts


class Agents:
    """Who can answer: the main file's agent, and those of ``routes.agents``.

    What belongs to the whole server (limits, records, carriers) is read from `default` alone.
    """

    def __init__(self, default: Parts, others: Mapping[str, Parts] | None = None) -> None:
        """Name the agents.

        Args:
            default: The main file's.
            others: Further ones by their names.
        """
        self.default = default
        self._by_name = {default.profile.name: default, **(others or {})}

    @property
    def names(self) -> tuple[str, ...]:
        """Every agent's name, the default's first."""
        return tuple(self._by_name)

    def get(self, name: str) -> Parts | None:
        """The agent of that name; for an empty one the default; None if there is none."""
        return self._by_name.get(name) if name else self.default

    def __iter__(self) -> Iterator[Parts]:
        return iter(self._by_name.values())
