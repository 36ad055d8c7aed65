"""Why calls end: a closed list, ``who.what``, used in records, metrics and logs.

The detail beside it is for people, except that of `PROVIDER_FAILED`, which always reads
``stage provider: error``, such as ``tts elevenlabs: silent for 1500 ms``.
"""

from __future__ import annotations

from typing import Final

CALLER_HUNG_UP: Final = "caller.hung_up"
CALLER_MEDIA_LOST: Final = "caller.media_lost"
CALLER_IDLE: Final = "caller.idle"
AGENT_ENDED: Final = "agent.ended"
AGENT_TRANSFERRED: Final = "agent.transferred"
CALLEE_BUSY: Final = "callee.busy"
CALLEE_NO_ANSWER: Final = "callee.no_answer"
CALLEE_FAILED: Final = "callee.failed"
"""The carrier could not reach the number, or would not call it."""
MACHINE_HUNG_UP: Final = "machine.hung_up"
MACHINE_MESSAGE_LEFT: Final = "machine.message_left"
OPERATOR_HUNG_UP: Final = "operator.hung_up"
CARRIER_CLOSED: Final = "carrier.closed"
CARRIER_PROTOCOL: Final = "carrier.protocol_error"
PROVIDER_FAILED: Final = "provider.failed"
SERVER_DRAINED: Final = "server.drained"
SERVER_LIMIT: Final = "server.max_call"
SERVER_ERROR: Final = "server.error"
SERVER_KILLED: Final = "server.killed"
"""Found at start: the process died while the call was live."""

REASONS: Final = frozenset(
    {
        CALLER_HUNG_UP,
        CALLER_MEDIA_LOST,
        CALLER_IDLE,
        AGENT_ENDED,
        AGENT_TRANSFERRED,
        CALLEE_BUSY,
        CALLEE_NO_ANSWER,
        CALLEE_FAILED,
        MACHINE_HUNG_UP,
        MACHINE_MESSAGE_LEFT,
        OPERATOR_HUNG_UP,
        CARRIER_CLOSED,
        CARRIER_PROTOCOL,
        PROVIDER_FAILED,
        SERVER_DRAINED,
        SERVER_LIMIT,
        SERVER_ERROR,
        SERVER_KILLED,
    }
)
