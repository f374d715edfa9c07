"""The log files that a command is asked about: the option that names them, and finding them."""

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
    """The option that ``find_files`` goes by."""
    parser.add_argument(
        "--dir",
        action="append",
        type=Path,
        default=[],
        help="a folder with log files, or one above; may be repeated; default: LOG_DIR",
    )


def find_files(args: argparse.Namespace) -> list[RecordFile]:
    """The record files, at least one.

    Raises ``CommandError`` where there is none, ``config.SettingsError``, and ``OSError``.
    """
    missing = [escaped(str(folder)) for folder in args.dir if not folder.is_dir()]
    if missing:
        raise CommandError(f"no such folder: {', '.join(missing)}")
    folders: list[Path] = args.dir or [_default_folder()]
    files = reader.find(folders)
    if not files:
        looked_in = ", ".join(escaped(str(folder)) for folder in folders)
        raise CommandError(f"no log files in {looked_in}, nor in a folder in it; see --dir")
    return files


def _default_folder() -> Path:
    folder: Path = setting("LOG_DIR")
    is_installed = folder == _UNSET and not folder.is_dir() and INSTALLED.is_dir()
    return INSTALLED if is_installed else folder


def complain_of(reading: Reading) -> None:
    """What of a reading was no record, or was gone."""
    if reading.skipped_lines:
        complain(f"{counted(reading.skipped_lines, 'line')} passed over that held no record")
    if reading.gone_files:
        complain(f"{counted(reading.gone_files)} not read: pruned since the command began")
