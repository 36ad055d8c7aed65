"""``flowcat-server doctor``: would this agent run well here, and would a carrier reach it?"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flowcat_server import carriers
from flowcat_server.cli.console import line, paint
from flowcat_server.cli.source import add_source, load_source
from flowcat_server.cli.speech import read_speech
from flowcat_server.errors import ConfigError, FlowcatError

if TYPE_CHECKING:  # what it looks at is slow to import: only where it is used
    from flowcat_server.cli.checkup.plan import Plan, Step
    from flowcat_server.cli.symptoms import Finding
    from flowcat_server.config.load import Loaded

_COLOURS = {"ok": "green", "warning": "yellow", "fault": "red"}
_WHAT = """\
Looks at this machine: would the agent run here? With --carrier it calls the running server instead,
as that carrier would, over the address that the carrier uses: the signed webhook, its answer, the
media socket, a whole short call, and the status callback; what is wrong is said in a sentence, with
the key to change. The call is a real one: it takes a place, costs what a call costs, and is
recorded. Exit code 0: well; 1: at least one fault."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "doctor",
        help="look for what is missing on this machine, or between a carrier and the server",
        description=_WHAT,
        allow_abbrev=False,
    )
    add_source(parser)
    parser.add_argument(
        "--carrier",
        choices=carriers.names(),
        metavar="NAME",
        help=f"call the running server as this carrier: {', '.join(carriers.names())}",
    )
    parser.add_argument(
        "--url",
        metavar="URL",
        help="where that carrier calls, https://... (default: server.public_url; audiosocket: "
        "tcp://host:port)",
    )
    parser.add_argument(
        "--speech", metavar="FILE", help="WAV (8 kHz, 16 bits, mono) that the caller says"
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=3.0, metavar="S", help="length of the call, default 3"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(handler=run)


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be between 1 and 3600")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Print every finding, with what to do about it."""
    if arguments.carrier:
        return _call(arguments)
    if arguments.url or arguments.speech:
        raise ConfigError("--url and --speech are for a call: name its carrier with --carrier")
    from flowcat_server.cli.symptoms import Finding, of_agent, of_machine

    findings = list(of_machine())
    try:
        loaded = load_source(arguments)
    except ConfigError as error:
        findings += [
            Finding("configuration", "fault", line(problem, sys.stdout))
            for problem in error.problems
            if not problem.warning
        ]
    else:
        findings += of_agent(loaded)
    if arguments.json:
        print(json.dumps([finding.as_json() for finding in findings], indent=2))
    else:
        _print(findings)
    return 1 if any(finding.status == "fault" for finding in findings) else 0


def _print(findings: Iterable[Finding]) -> None:
    for finding in findings:
        _print_one(finding)


def _print_one(finding: Finding, time: str = "") -> None:
    status = paint(f"{finding.status:<8}", _COLOURS[finding.status], sys.stdout)
    print(f"{status} {time}{finding.name}: {finding.detail}")
    if finding.advice:
        print(f"         {' ' * len(time)}{paint(finding.advice, 'dim', sys.stdout)}")


# --- a call ---------------------------------------------------------------------------------------


def _call(arguments: argparse.Namespace) -> int:
    from flowcat_server.cli.checkup.run import start

    plan = plan_of(
        load_source(arguments), arguments.carrier, arguments.url or "", arguments.seconds,
        read_speech(Path(arguments.speech)) if arguments.speech else b"",
    )  # fmt: skip
    steps: list[Step] = []

    def tell(step: Step) -> None:
        steps.append(step)
        if not arguments.json:
            _print_one(step, f"{step.ms:>6} ms  ")
            sys.stdout.flush()

    well = start(plan, tell)
    if arguments.json:
        print(json.dumps([step.as_json() for step in steps], indent=2))
    return 0 if well else 1


def plan_of(
    loaded: Loaded, carrier: str, url: str = "", seconds: float = 3.0, speech: bytes = b""
) -> Plan:
    """What is to be done for a carrier; `url` is empty: where the agent file says.

    Raises:
        FlowcatError: There is no such address.
    """
    from flowcat_server.cli.checkup.plan import Plan
    from flowcat_server.cli.far_side import SIDES
    from flowcat_server.routes.lines import lines

    config = loaded.config
    found = next(each for each in lines(config) if each.carrier.name == carrier)
    public = config.server.public_url.rstrip("/")
    if found.carrier.over == "tcp":
        called = _tcp(url or f"tcp://{found.bind}")
        return Plan(SIDES[carrier], found, config, called, called, secrets.token_hex(16), speech,
                    hold_s=seconds)  # fmt: skip
    own = _own(config.server.bind)
    called = _base(url) if url else public or own
    signed = public if public and _same_place(called, own) else called
    return Plan(SIDES[carrier], found, config, called, signed, secrets.token_hex(16), speech,
                hold_s=seconds)  # fmt: skip


def _own(bind: str) -> str:
    """Where the server listens, from this machine."""
    from flowcat_server.config.types import parse_bind

    host, port = parse_bind(bind)
    host = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - compared
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _same_place(called: str, own: str) -> bool:
    """Whether the server is called past its proxy."""
    ours, theirs = urlsplit(called), urlsplit(own)
    local = ours.hostname in (theirs.hostname, "localhost", "127.0.0.1", "::1")
    return local and (ours.scheme, ours.port) == (theirs.scheme, theirs.port)


def _base(url: str) -> str:
    """Of any address that people paste: without the path of a door."""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    scheme = {"wss": "https", "ws": "http"}.get(parts.scheme, parts.scheme)
    try:
        known = scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise FlowcatError(f"{url!r} is not the URL of a server, such as https://voice.example.com")
    path = parts.path.partition("/telephony/")[0].rstrip("/")
    place = parts.netloc.rpartition("@")[2].lower()
    return f"{scheme}://{place.removesuffix(':443' if scheme == 'https' else ':80')}{path}"


def _tcp(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"tcp://{url}")
    try:
        known = parts.scheme == "tcp" and parts.port
    except ValueError:
        known = None
    if not known:
        raise FlowcatError(
            "where AudioSocket listens is not known: set carriers.audiosocket.bind, or give "
            "--url tcp://host:port"
        )
    host = parts.hostname or "127.0.0.1"
    host = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - compared
    return f"tcp://{f'[{host}]' if ':' in host else host}:{parts.port}"
