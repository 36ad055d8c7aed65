"""Messages between the workers of one server, and connections that change hands with them.

Each worker has an inbox: one end of a pair of Unix datagram sockets that the supervisor made
before there were any workers. All of them hold the other end. A datagram between the two ends of a
pair is delivered whole and in order or refused at once (unix(7)), and it can carry the descriptor
of an open connection (``SCM_RIGHTS``, cmsg(3)). What lies in the inbox of a worker that died is
not lost: the supervisor gives it to another.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator, Sequence

import msgspec

from flowcat_server.core.carrier import CallStatus, Detected, DialOver, Report

MAX_BYTES = 128 * 1024
"""Of one message; the kernel takes about 200 KB (``net.core.wmem_default``)."""
_BATCH = 64


class Moved(msgspec.Struct, tag=True):
    """A connection, and what was read from it of the request that it now brings."""

    head: bytes
    arriving: int = 0
    """As in `Board.place_call`; 0: it is about a call that the new owner has."""
    door: str = "http"
    """``http`` or ``audiosocket``: who takes it."""


class Told(msgspec.Struct, tag=True):
    """What a carrier said of a call that is another worker's, if anybody's: one of the three."""

    carrier: str
    status: CallStatus | None = None
    detected: Detected | None = None
    dial: DialOver | None = None

    @classmethod
    def of(cls, carrier: str, report: Report) -> Told:
        """The message for a report."""
        match report:
            case CallStatus():
                return cls(carrier, status=report)
            case Detected():
                return cls(carrier, detected=report)
            case DialOver():
                return cls(carrier, dial=report)

    @property
    def report(self) -> Report | None:
        """What was said."""
        return self.status or self.detected or self.dial


class Ended(msgspec.Struct, tag=True):
    """A call has ended: there may be something to report."""


Message = Moved | Told | Ended
_decoder = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()


class Post:
    """The inboxes of all workers, made by the supervisor and inherited by each of them."""

    def __init__(self, workers: int) -> None:
        self._pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(workers)]
        for end in (end for pair in self._pairs for end in pair):
            end.setblocking(False)

    def __len__(self) -> int:
        return len(self._pairs)

    def inbox(self, number: int) -> int:
        """The descriptor that becomes readable when worker `number` (from 1) has a message."""
        return self._pairs[number - 1][0].fileno()

    def send(self, number: int, message: Message, descriptor: int = -1) -> bool:
        """Put a message, and perhaps a connection, into a worker's inbox; False: it is full."""
        body = _encoder.encode(message)
        if len(body) > MAX_BYTES:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            self._pairs[number - 1][1].sendmsg([body], rights if descriptor >= 0 else [])
        except OSError:
            return False
        return True

    def read(self, number: int) -> Iterator[tuple[Message, socket.socket | None]]:
        """What lies in a worker's inbox, at most a batch; connections become the reader's."""
        for _ in range(_BATCH):
            try:
                body, ancillary, _, _ = self._pairs[number - 1][0].recvmsg(
                    MAX_BYTES, socket.CMSG_SPACE(array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            descriptors = _descriptors(ancillary)
            connection = socket.socket(fileno=descriptors[0]) if descriptors else None
            yield _decoder.decode(body), connection

    def pass_on(self, number: int, others: Sequence[int]) -> int:
        """Give what lies in one inbox to the first of `others` that takes it.

        Returns how many connections were passed on; those that nobody takes are closed.
        """
        passed = 0
        for message, connection in self.read(number):
            if connection is None:
                continue
            with connection:
                passed += any(self.send(each, message, connection.fileno()) for each in others)
        return passed

    def close(self) -> None:
        """Close every inbox."""
        for pair in self._pairs:
            for end in pair:
                end.close()


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    for extra in found[1:]:
        os.close(extra)
    return list(found[:1])
