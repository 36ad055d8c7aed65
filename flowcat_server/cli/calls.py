"""``flowcat-server calls``: what was said, how fast, and why it ended."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flowcat_server.cli.console import paint
from flowcat_server.cli.source import load_source
from flowcat_server.config.load import Loaded
from flowcat_server.config.types import format_duration, parse_duration
from flowcat_server.core import ended
from flowcat_server.errors import RecordsError
from flowcat_server.logs import escape

if TYPE_CHECKING:  # the database library is slow to import: only where it is used
    from flowcat_server.records.models import CallRecord, CallSummary
    from flowcat_server.records.store import Store

NOT_YET = ("dialling", "ringing")
_FAULTS = {ended.PROVIDER_FAILED, ended.SERVER_ERROR, ended.SERVER_KILLED, ended.CARRIER_PROTOCOL}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command and its three subcommands."""
    parser = commands.add_parser(
        "calls",
        help="list, show and remove the calls that were recorded",
        description="Reads the records of an agent file; the server may be running.",
        allow_abbrev=False,
    )
    kinds = parser.add_subparsers(metavar="ls|show|rm", required=True)
    listing = kinds.add_parser("ls", help="newest calls first", allow_abbrev=False)
    listing.add_argument("--limit", type=_count, default=30, metavar="N", help="default 30")
    listing.add_argument("--before", metavar="ID", help="calls older than this one")
    _add_common(listing, _ls)
    showing = kinds.add_parser("show", help="transcript and timing of a call", allow_abbrev=False)
    showing.add_argument("id", metavar="ID", help="a call's id, or how it begins")
    _add_common(showing, _show)
    removing = kinds.add_parser("rm", help="remove calls: rows and recordings", allow_abbrev=False)
    removing.add_argument("ids", nargs="*", metavar="ID", help="ids, or how they begin")
    removing.add_argument(
        "--older", type=_age, metavar="AGE", help="all that ended longer ago, such as 30d"
    )
    removing.add_argument("--dry-run", action="store_true", help="only say what would go")
    _add_common(removing, _rm)


def _add_common(parser: argparse.ArgumentParser, command: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-c", "--config", metavar="FILE", help="agent file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="set one value, such as records.dir=/srv/calls",
    )  # fmt: skip
    parser.add_argument("--env-file", metavar="FILE", help="read environment variables first")
    parser.set_defaults(handler=run, command=command, file=None)


def _coloured(text: str, colour: str) -> str:
    return paint(text, colour, sys.stdout)


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError("must be between 1 and 1000")
    return value


def _age(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Run one of the subcommands."""
    loaded = load_source(arguments)
    code: int = asyncio.run(arguments.command(arguments, loaded))
    return code


async def _open(loaded: Loaded, *, read_only: bool) -> Store:
    from flowcat_server.records.store import Store

    records = loaded.config.records
    return await Store.open(
        records.database, directory=loaded.work_dir / records.dir, read_only=read_only
    )


async def _resolve(store: Store, prefix: str) -> str:
    found = await store.find(prefix, limit=6)
    if not found:
        raise RecordsError(f"there is no call {escape(prefix)}")
    if len(found) > 1:
        listed = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise RecordsError(f"{escape(prefix)} could be {listed}")
    return found[0]


# --- ls ---------------------------------------------------------------------------------------


async def _ls(arguments: argparse.Namespace, loaded: Loaded) -> int:
    store = await _open(loaded, read_only=True)
    try:
        before = await _resolve(store, arguments.before) if arguments.before else None
        calls = await store.list_calls(arguments.limit, before)
        orphans = set(await store.orphans())
    finally:
        await store.close()
    if arguments.json:
        print(json.dumps([_as_json(call, orphans) for call in calls], indent=2, ensure_ascii=False))
    elif not calls:
        print("no calls" if before is None else "no older calls")
    else:
        print("\n".join(_table(calls, orphans)))
    return 0


def _as_json(call: CallSummary, orphans: set[str]) -> dict[str, Any]:
    return call.to_dict() | {"state": _state(call, orphans)}


def _state(call: CallSummary, orphans: set[str]) -> str:
    if call.ended_at is not None:
        return "ended"
    return "orphaned" if call.id in orphans else "live"


def _table(calls: Sequence[CallSummary], orphans: set[str]) -> Iterator[str]:
    heads = ("ID", "STARTED", "DOOR", "WHO", "LENGTH", "TURNS", "LATENCY", "ENDED")
    rows = [
        (
            call.id,
            _local(call.accepted_at),
            escape(call.channel),
            _who(call),
            "-" if call.duration_ms is None else _clock(call.duration_ms)[:-2],
            f"{call.turns}" + (f" ({call.interruptions} cut)" if call.interruptions else ""),
            "-" if call.latency_ms is None else f"{call.latency_ms} ms",
        )
        for call in calls
    ]
    widths = [max(map(len, column)) for column in zip(heads[:-1], *rows, strict=True)]
    yield _coloured(_columns(heads[:-1], widths) + heads[-1], "dim")
    for call, row in zip(calls, rows, strict=True):
        yield _columns(row, widths) + _ending(call, orphans)


def _who(call: CallSummary) -> str:
    """The number at the far end."""
    if call.direction == "outbound":
        return f"to {escape(call.to_number)}"
    return escape(call.from_number) or "-"


def _columns(row: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(cell.ljust(width + 2) for cell, width in zip(row, widths, strict=True))


def _ending(call: CallSummary, orphans: set[str]) -> str:
    state = _state(call, orphans)
    if state == "live":
        return _coloured(call.progress if call.progress in NOT_YET else "live", "green")
    if state == "orphaned":
        return _coloured("orphaned (its server is gone; the next start ends it)", "red")
    reason = escape(call.ended_reason)
    return _coloured(reason, "red") if reason in _FAULTS else reason


def _local(at: int) -> str:
    return datetime.fromtimestamp(at / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _clock(ms: int) -> str:
    """``02:05.3``, minutes and seconds of the call."""
    return f"{ms // 60_000:02}:{ms // 1000 % 60:02}.{ms // 100 % 10}"


# --- show -------------------------------------------------------------------------------------


async def _show(arguments: argparse.Namespace, loaded: Loaded) -> int:
    store = await _open(loaded, read_only=True)
    try:
        call = await store.get_call(await _resolve(store, arguments.id))
        orphans = set(await store.orphans())
    finally:
        await store.close()
    if call is None:  # removed in this moment
        raise RecordsError(f"there is no call {escape(arguments.id)}")
    path = store.recording_path(call.summary)
    if arguments.json:
        record = call.to_dict() | {
            "state": _state(call.summary, orphans),
            "recording_file": None if path is None else str(path),
        }
        print(json.dumps(record, indent=2, ensure_ascii=False))
        return 0
    for line in _head(call, orphans):
        print(line)
    if path is not None:
        print(f"Recording  {path}")
    print()
    for line in _conversation(call):
        print(line)
    return 0


def _head(call: CallRecord, orphans: set[str]) -> Iterator[str]:
    summary = call.summary
    yield f"Call       {summary.id}"
    who = escape(summary.agent) + f" ({escape(summary.channel)})"
    yield f"Agent      {who}"
    if summary.from_number or summary.to_number:
        numbers = f"{escape(summary.from_number) or '?'} to {escape(summary.to_number) or '?'}"
        yield f"Numbers    {numbers}"
    if summary.dialled_at is not None:
        by = f", answered by: {escape(summary.answered_by)}" if summary.answered_by else ""
        yield f"Dialled    {_local(summary.dialled_at)}, {escape(summary.status)}{by}"
    length = "" if summary.duration_ms is None else f", {_clock(summary.duration_ms)} long"
    yield f"Started    {_local(summary.accepted_at)}{length}"
    detail = f": {escape(summary.ended_detail)}" if summary.ended_detail else ""
    yield f"Ended      {_ending(summary, orphans)}{detail}"
    if call.variables:
        values = ", ".join(
            f"{escape(name)}={escape(json.dumps(value, ensure_ascii=False))}"
            for name, value in call.variables.items()
        )
        yield f"Variables  {values}"
    for line in call.usage:
        used = ", ".join(
            f"{value} {name.replace('_', ' ')}"
            for name, value in line.items()
            if isinstance(value, int) and value
        )
        yield f"Usage      {escape(line['kind'])} {escape(line['provider'])}: {used}"
    if call.dropped_events:
        yield _coloured(f"Missing    {call.dropped_events} events were not recorded", "yellow")


def _conversation(call: CallRecord) -> Iterator[str]:
    """Turns, tools, nodes and notices in the order of the call."""
    spoken = {
        event["data"]["turn"]: event["at_ms"]
        for event in reversed(call.events)
        if event["name"] == "agent_speaking" and event["data"]["speaking"]
    }
    lines: list[tuple[int, str]] = []
    for turn in call.turns:
        lines += _turn(turn, spoken.get(turn["turn"]))
    for tool in call.tool_calls:
        arguments = escape(json.dumps(tool["arguments"], ensure_ascii=False))
        outcome = {True: "", False: _coloured(" failed", "red"), None: " (did not return)"}[
            tool["ok"]
        ]
        took = "" if tool["duration_ms"] is None else f" in {tool['duration_ms']} ms"
        lines.append(
            (tool["started_ms"], f"tool    {escape(tool['name'])}({arguments}){outcome}{took}")
        )
        if tool["result"]:
            lines.append((tool["started_ms"], "        " + escape(tool["result"])))
    lines += [(event["at_ms"], text) for event in call.events if (text := _event(event))]
    for at_ms, text in sorted(lines, key=lambda line: line[0]):
        yield f"{_coloured(_clock(at_ms), 'dim')}  {text}"


def _turn(turn: dict[str, Any], spoken_ms: int | None) -> Iterator[tuple[int, str]]:
    if turn["caller"]:
        yield turn["started_ms"], f"caller  {escape(turn['caller'])}"
    at_ms = turn["started_ms"] if spoken_ms is None else spoken_ms
    at_ms = max(at_ms, turn["started_ms"])
    if turn["agent"] or turn["unheard"]:
        cut = ""
        if turn["interrupted"]:
            lost = escape(turn["unheard"].strip())
            cut = _coloured(" [cut off" + (f", not heard: {lost}]" if lost else "]"), "yellow")
        yield at_ms, f"agent   {escape(turn['agent'])}{cut}"
    if turn["total_ms"] is not None:
        from flowcat_server.records.models import LATENCY_PARTS

        parts = " + ".join(
            f"{part.replace('_', ' ')} {turn[f'{part}_ms']}" for part in LATENCY_PARTS
        )
        yield at_ms, _coloured(f"        {turn['total_ms']} ms = {parts}", "dim")


def _event(event: dict[str, Any]) -> str:
    data = event["data"]
    match event["name"]:
        case "node_entered":
            return _coloured(f"node    {escape(data['name'] or data['node'])}", "dim")
        case "digit_pressed":
            return f"key     {escape(data['digit'])}"
        case "call_progress":
            detail = f": {escape(data['detail'])}" if data["detail"] else ""
            return _coloured(f"line    {escape(data['status'])}{detail}", "dim")
        case "answer_detected":
            return _coloured(f"answer  {escape(data['answerer'])} ({escape(data['why'])})", "dim")
        case "notice":
            text = f"{escape(data['level'])}: {escape(data['text'])}"
            return _coloured("notice  " + text, "yellow")
        case _:
            return ""


# --- rm ---------------------------------------------------------------------------------------


async def _rm(arguments: argparse.Namespace, loaded: Loaded) -> int:
    if bool(arguments.ids) == (arguments.older is not None):
        raise RecordsError("say which calls to remove: ids, or --older AGE")
    reader = await _open(loaded, read_only=True)
    try:
        # Prefixes are resolved before anything is removed: a wrong one removes nothing.
        ids = list(dict.fromkeys([await _resolve(reader, prefix) for prefix in arguments.ids]))
        alive = set(await reader.live()) - set(await reader.orphans())
        if arguments.older is not None:
            ids = await reader.older_than(time.time_ns() // 1_000_000 - arguments.older)
    finally:
        await reader.close()
    if live := [call_id for call_id in ids if call_id in alive]:
        raise RecordsError(f"{', '.join(live)}: the call is live; hang up first")
    if arguments.dry_run:
        return _report(
            arguments, {"calls": len(ids), "ids": ids}, f"would remove {_calls(len(ids))}"
        )
    store = await _open(loaded, read_only=False)
    try:
        await store.close_orphans()
        deleted = await store.delete_calls(ids)
    finally:
        await store.close()
    text = f"removed {_calls(deleted.calls)}, {deleted.files} recording{'s' * (deleted.files != 1)}"
    if deleted.size:
        text += f" ({deleted.size / 1e6:.1f} MB)"
    if arguments.older is not None:
        text += f", older than {format_duration(arguments.older)}"
    values = {"calls": deleted.calls, "files": deleted.files, "bytes": deleted.size}
    return _report(arguments, values, text)


def _report(arguments: argparse.Namespace, values: dict[str, Any], text: str) -> int:
    print(json.dumps(values) if arguments.json else text)
    return 0


def _calls(count: int) -> str:
    return f"{count} call{'s' * (count != 1)}"
