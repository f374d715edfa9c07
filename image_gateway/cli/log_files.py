"""The log files that a command reads: the ``--dir`` option, and how the files are found."""

import argparse
from pathlib import Path
from typing import Final

from image_gateway import config
from image_gateway.cli.environment import read, setting
from image_gateway.cli.exits import CommandError
from image_gateway.cli.output import complain, counted, escaped
from image_gateway.edge.records import reader
from image_gateway.edge.records.reader import Reading, RecordFile

INSTALLED: Final = Path("/var/log/image-gateway")
"""Where systemd keeps the logs of the installed instances, each in its own folder."""

_UNSET: Final = config.parse_one({}, read, "LOG_DIR")


def add_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option that ``find_files`` reads."""
    parser.add_argument(
        "--dir",
        action="append",
        type=Path,
        default=[],
        help="a folder with log files, or its parent; may be repeated (default: LOG_DIR)",
    )


def find_files(args: argparse.Namespace) -> list[RecordFile]:
    """The record files, at least one.

    Raises ``CommandError`` if there are none, ``config.SettingsError``, and ``OSError``.
    """
    missing = [escaped(str(folder)) for folder in args.dir if not folder.is_dir()]
    if missing:
        raise CommandError(f"no such folder: {', '.join(missing)}")
    folders: list[Path] = args.dir or [_default_folder()]
    files = reader.find(folders)
    if not files:
        searched = ", ".join(escaped(str(folder)) for folder in folders)
        raise CommandError(
            f"no log files in {searched}, or in a folder directly in it; name the folder by --dir"
        )
    return files


def _default_folder() -> Path:
    folder: Path = setting("LOG_DIR")
    is_installed = folder == _UNSET and not folder.is_dir() and INSTALLED.is_dir()
    return INSTALLED if is_installed else folder


def complain_of(reading: Reading) -> None:
    """Report lines that held no record, and files that were gone."""
    if reading.skipped_lines:
        complain(f"skipped {counted(reading.skipped_lines, 'line')} without a record")
    if reading.gone_files:
        complain(f"skipped {counted(reading.gone_files)}: pruned since the command began")
