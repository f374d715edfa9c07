"""KEEP_DIR as commands see it: which folder it is, and whether an instance could use it."""

from pathlib import Path
from typing import Final

from image_gateway import config
from image_gateway.cli.environment import read, setting
from image_gateway.cli.output import complain, counted, escaped, say, size
from image_gateway.config import Settings
from image_gateway.core.calls.model import CallState
from image_gateway.edge.kept.file_system import file_system
from image_gateway.edge.kept.folder import KeepFolder, KeepFolderError
from image_gateway.edge.kept.listing import Listing, list_calls

INSTALLED: Final = Path("/var/lib/image-gateway/calls")
"""Where systemd keeps the calls of the installed instances."""

_UNSET: Final = config.parse_one({}, read, "KEEP_DIR")


def default_folder() -> Path:
    """KEEP_DIR; if it is not set and its default does not exist, the installed instances' folder.

    Raises ``config.SettingsError`` and ``OSError``.
    """
    folder: Path = setting("KEEP_DIR")
    is_installed = folder == _UNSET and not folder.is_dir() and INSTALLED.is_dir()
    return INSTALLED if is_installed else folder


def check(settings: Settings) -> bool:
    """Say whether KEEP_DIR can be used and what is kept there; whether ``serve`` would start.

    Nothing is made or changed.
    """
    folder = KeepFolder(settings.keep_dir)
    path = escaped(str(settings.keep_dir))
    is_off = settings.keep_seconds <= 0
    try:
        if is_off and not folder.exists:
            say("ok: KEEP_SECONDS is 0: answers are not kept")
            return True
        folder.check()
        kept = list_calls(folder, settings.keep_seconds) if folder.exists else Listing((), 0)
        if is_off:
            say(
                f"ok: KEEP_SECONDS is 0: answers are not kept, and {_told(kept)} in {path} "
                "are removed at the next start"
            )
            return True
        room = file_system(settings.keep_dir)
    except KeepFolderError as error:
        if is_off:
            say(f"warning: {escaped(str(error))}. Nothing is kept, nor removed there")
            return True
        complain(escaped(str(error)))
        return False
    except OSError as error:
        # Neither proves that an instance fares no better: systemd shows a service its own folders.
        say(f"skipped: KEEP_DIR {path} cannot be checked by this process: {error.strerror}")
        return True
    where = f"{escaped(room.kind)} at {escaped(room.mount_point)}, {size(room.free_bytes)} free"
    say(f"ok: KEEP_DIR {path} ({where}) can be used; it has {_told(kept)}")
    budget = settings.keep_budget_bytes
    # What is kept already is a part of the budget.
    if room.free_bytes + kept.disk_bytes < budget:
        say(
            f"warning: KEEP_BUDGET_BYTES is {size(budget)}, and the file system of KEEP_DIR has "
            f"{size(room.free_bytes)} free: when it is full, calls are not kept. Lower "
            "KEEP_BUDGET_BYTES, or free space"
        )
    if room.is_memory:
        say(
            f"warning: KEEP_DIR is on {room.kind}: kept answers take memory, up to "
            f"KEEP_BUDGET_BYTES ({size(budget)})"
        )
    return True


def _told(kept: Listing) -> str:
    running = sum(call.state is CallState.RUNNING for call in kept.calls)
    calls = counted(len(kept.calls), "call")
    return f"{calls} ({running} running, {size(kept.disk_bytes)})" if kept.calls else calls
