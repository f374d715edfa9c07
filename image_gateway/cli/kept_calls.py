"""``image-gateway logs calls``: the calls of this machine that run or are kept.

It reads KEEP_DIR and changes nothing in it, whether or not instances work there.  Neither pictures
nor what calls are found by are shown.
"""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from image_gateway.cli import output
from image_gateway.cli.environment import setting
from image_gateway.cli.exits import CommandError, handled
from image_gateway.cli.keep_dir import default_folder
from image_gateway.cli.output import complain, counted, escaped, say, size
from image_gateway.core.calls.model import CallState
from image_gateway.edge.kept.folder import KeepFolder, KeepFolderError
from image_gateway.edge.kept.listing import ListedCall, list_calls

_LIMIT: Final = 50
_COLUMNS: Final = (
    *("call_id", "request_id", "endpoint", "state", "status", "began", "ended", "answer_bytes"),
    *("client", "expires"),
)


def add_report(reports: "argparse._SubParsersAction[Any]") -> None:
    """Put ``calls`` on the command line, below ``logs``."""
    parser = reports.add_parser("calls", help="list the calls of this machine that run or are kept")
    parser.add_argument(
        "--keep-dir",
        type=Path,
        metavar="DIR",
        help="the folder of kept calls (default: KEEP_DIR)",
    )
    parser.add_argument(
        "--limit",
        type=_count,
        default=_LIMIT,
        metavar="N",
        help=f"list the newest N calls (default: {_LIMIT}); 0: all",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=handled(_calls))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError("must be a whole number, or 0")
    return int(text)


def _calls(args: argparse.Namespace) -> None:
    path: Path = args.keep_dir or default_folder()
    keep_seconds: float = setting("KEEP_SECONDS")
    folder = KeepFolder(path)
    if not folder.exists:
        raise CommandError(f"no such folder: {escaped(str(path))}; name it by --keep-dir")
    try:
        kept = list_calls(folder, keep_seconds)
    except KeepFolderError as error:
        raise CommandError(escaped(str(error))) from None
    if kept.unreadable:
        complain(f"skipped {counted(kept.unreadable)} without a call")
    running = sum(call.state is CallState.RUNNING for call in kept.calls)
    rows = [_row(call) for call in kept.calls[: args.limit or None]]
    if args.json:
        document = {
            "keep_dir": str(path),
            "keep_seconds": keep_seconds,
            "total": len(kept.calls),
            "running": running,
            "disk_bytes": kept.disk_bytes,
            "skipped_files": kept.unreadable,
            "calls": rows,
        }
        say(json.dumps(document, indent=2, default=_rfc3339))
        return
    if not kept.calls:
        say("no calls")
        return
    is_part = len(rows) < len(kept.calls)
    say(
        f"{counted(len(kept.calls), 'call')}, {running:,} running, {size(kept.disk_bytes)}"
        f"{f'; the newest {len(rows):,}' if is_part else ''}"
    )
    say("")
    say(_table(rows))


def _row(call: ListedCall) -> dict[str, object]:
    """What programs get of a call."""
    identity = call.identity
    return {
        "call_id": identity.call_id,
        "request_id": identity.request_id,
        "endpoint": identity.endpoint,
        "state": call.state.value,
        "status": call.status,
        "error_code": call.error_code,
        "error_source": call.error_source,
        "began": _moment(identity.created_at),
        "ended": _moment(call.ended_at),
        "answer_bytes": call.answer_bytes,
        "client": _client(call),
        "expires": _moment(call.expires_at),
    }


def _client(call: ListedCall) -> str:
    """Whether somebody has got the answer, or may still."""
    if call.was_delivered:
        return "delivered"
    if call.was_sent:
        return "sent"
    if call.has_clients:
        return "connected"
    return "has-id" if call.gave_id else "left"


def _moment(seconds: float | None) -> datetime | None:
    """A journal's seconds as a time; None if they are missing or out of range."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _rfc3339(value: object) -> str:
    assert isinstance(value, datetime)
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _table(rows: Sequence[dict[str, object]]) -> str:
    heads = [name.replace("_", " ") for name in _COLUMNS]
    return output.table(heads, [[_cell(row[name]) for name in _COLUMNS] for row in rows])


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return output.cell(value)
