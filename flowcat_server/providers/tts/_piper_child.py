"""The synthesis process: ``python -m flowcat_server.providers.tts._piper_child``.

piper-tts and the espeak-ng inside it are under GPL-3.0-or-later; they are loaded in this process
only, which talks to the server over its standard input and output (see `_wire`). It ends when
its input does, so it cannot outlive the server; it ignores SIGINT and SIGTERM, which a terminal
or a supervisor sends to the whole group, because calls that are drained still have to speak.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

from flowcat_server.providers.native import configure_libraries
from flowcat_server.providers.tts._wire import HEADER, Kind, WireError, pack, unpack_header


class Link:
    """Messages to and from the server."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._lock = threading.Lock()

    def receive(self) -> tuple[Kind, int, bytes] | None:
        """The next message; None at the end. Raises `WireError`."""
        header = self._source.read(HEADER.size)
        if not header:
            return None
        length, kind, request = unpack_header(header)
        payload = self._source.read(length)
        return (kind, request, payload) if len(payload) == length else None

    def send(self, kind: Kind, request: int, payload: bytes = b"") -> None:
        """Send one message. Ends the process when the server is gone."""
        with self._lock:
            try:
                self._sink.write(pack(kind, request, payload))
                self._sink.flush()
            except OSError:
                os._exit(0)

    def send_json(self, kind: Kind, request: int, value: Any) -> None:
        """As `send`."""
        self.send(kind, request, json.dumps(value).encode())


def serve(link: Link) -> None:
    """Set up as the first message says, then speak until the input ends."""
    first = link.receive()
    if first is None or first[0] is not Kind.SETUP:
        return
    setup = json.loads(first[2])
    try:
        # Numerical packages are imported here, after their threads were limited.
        from flowcat_server.providers.tts._piper_model import PiperModel
        from flowcat_server.providers.tts._piper_schedule import Output, Schedule

        model = PiperModel(Path(setup["model"]), Path(setup["config"]), setup["scales"])
        for sentence in model.plan("Ready."):
            encoded = model.encode(sentence, None)
            model.decode(encoded, 0, encoded.frames, None)
    except Exception as error:  # noqa: BLE001 - reported to the server, which decides
        link.send(Kind.FAILED, 0, f"{type(error).__name__}: {error}".encode())
        return
    output = Output(
        words=lambda number, words: link.send_json(Kind.WORDS, number, words),
        audio=lambda number, pcm: link.send(Kind.AUDIO, number, pcm),
        done=lambda number: link.send(Kind.DONE, number),
        failed=lambda number, text: link.send(Kind.FAILED, number, text.encode()),
    )
    schedule = Schedule(model, output, int(setup["threads"]))
    link.send_json(Kind.READY, 0, {"sample_rate": model.sample_rate})
    while (message := link.receive()) is not None:
        kind, number, payload = message
        if kind is Kind.SPEAK:
            order = json.loads(payload)
            schedule.speak(number, str(order["text"]), bool(order["background"]))
        elif kind is Kind.CANCEL:
            schedule.cancel(number)


def main() -> None:
    """Entry point of the process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    configure_libraries()
    # Whatever a library prints must not get between the messages.
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        serve(Link(sys.stdin.buffer, sink))
    except WireError as error:
        sys.stderr.write(f"{error}\n")
    sys.stderr.flush()
    # Threads may be inside native code; there is nothing to clean up.
    os._exit(0)


if __name__ == "__main__":
    main()
