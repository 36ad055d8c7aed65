"""Every error the server raises on purpose.

FlowcatError
|-- ConfigError            a file or flag is wrong; carries one Problem per mistake
|-- MissingExtra           a provider needs a package that is not installed
|-- AssetError             a bundled model file is absent or its checksum differs
|-- ProviderError          a speech or language provider failed (see `retryable`)
|   |-- ProviderRefused      key, quota, model or request is wrong: trying again cannot help
|   |-- ProviderBusy         too many requests: try later or elsewhere
|   |-- ProviderUnavailable  no connection, reset, or a server fault
|   |-- ProviderTimeout      connected, but nothing came in time
|   `-- ProviderProtocol     it answered with something we cannot read
|-- CallRefused            a call is not taken (full, draining, overloaded, rejected)
|-- CallNotMade            a call that was asked for could not be made; says why
|-- AuthError              a webhook, socket or API request is not who it says it is
|-- TransportError         the socket or track of a call failed
|-- SharedStateError       what several workers or machines share is out of reach
|-- RecordsError           the records database or a recording cannot be used
`-- ToolError              a tool failed; its text is shown to the model
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class FlowcatError(Exception):
    """Base of all errors the server raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration: where it is, what was found, what is allowed."""

    message: str
    path: str = ""
    """Dotted key path, such as ``topology.tts.model``."""
    file: str = ""
    line: int = 0
    """1-based; 0 when the value did not come from a file."""
    column: int = 0
    warning: bool = False

    def __str__(self) -> str:
        where = self.file
        if self.line:
            where += f":{self.line}:{self.column}"
        parts = [part for part in (where, self.path) if part]
        kind = "warning: " if self.warning else ""
        return ": ".join([*parts, kind + self.message])


class ConfigError(FlowcatError):
    """The configuration cannot be used; `problems` names every mistake found."""

    def __init__(self, problems: Sequence[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = [Problem(problems)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class MissingExtra(FlowcatError):
    """A provider's package is not installed; the message holds the command that installs it."""

    def __init__(self, provider: str, extra: str, module: str) -> None:
        self.provider, self.extra, self.module = provider, extra, module
        super().__init__(
            f"provider {provider!r} needs the package {module!r}: "
            f"pip install 'flowcat-server[{extra}]'"
        )


class AssetError(FlowcatError):
    """A bundled model file is missing or is not the file we tested."""


class ProviderError(FlowcatError):
    """A provider failed. `retryable` says whether trying again may help."""

    retryable = False
    stage = ""
    """What it was asked for: ``stt``, ``llm``, ``tts``, ``realtime``; said by who asked."""

    def __init__(self, provider: str, message: str, *, retryable: bool | None = None) -> None:
        self.provider = provider
        if retryable is not None:
            self.retryable = retryable
        super().__init__(f"{provider}: {message}")

    @property
    def detail(self) -> str:
        """``stage provider: error``, as it stands in a call's end."""
        return f"{self.stage} {self}".lstrip()


class ProviderRefused(ProviderError):
    """Key, quota, model name or request is wrong."""


class ProviderBusy(ProviderError):
    """Too many requests or sessions at once."""

    retryable = True


class ProviderUnavailable(ProviderError):
    """No connection, a reset, or a fault on the provider's side."""

    retryable = True


class ProviderTimeout(ProviderError):
    """The provider is connected but did not answer within its deadline."""

    retryable = True


class ProviderProtocol(ProviderError):
    """The provider answered with something that is not its protocol."""

    retryable = True


class CallRefused(FlowcatError):
    """A call is not taken.

    `reason` is ``full``, ``draining``, ``overloaded`` or ``rejected``; ``over`` if it has ended
    meanwhile.
    """

    def __init__(self, reason: str, *, say: str = "", detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        self.say = say
        """What the caller is told; empty: what the agent file says for this."""
        super().__init__(f"call refused: {reason}")


class CallNotMade(FlowcatError):
    """A call that was asked for could not be made. The message is for who asked.

    `code` names the reason for programs, `field` what of the request was wrong, `call_id` the
    record that there is of the attempt.
    """

    def __init__(
        self, code: str, message: str, *, field: str = "", call_id: str = "", wait_s: int = 0
    ) -> None:
        self.code, self.message, self.field = code, message, field
        self.call_id = call_id
        self.wait_s = wait_s
        """Seconds after which it may be asked for again; 0: it would fail again."""
        super().__init__(message)


class AuthError(FlowcatError):
    """A request could not prove who it is. The message is for the log, not for the peer."""


class TransportError(FlowcatError):
    """The socket or track of a call failed."""


class SharedStateError(FlowcatError):
    """What workers or machines remember together is out of reach; the message says why."""


class RecordsError(FlowcatError):
    """The records database or a recording cannot be used; the message says which and why."""


class ToolError(FlowcatError):
    """A tool failed. The message is given to the model, so it must be safe to speak about."""
