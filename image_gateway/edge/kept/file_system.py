"""On which file system a folder lies, or would lie, and how much room there is."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MOUNTS: Final = Path("/proc/self/mountinfo")
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
"""How the kernel writes spaces and line ends in a path (proc(5))."""


@dataclass(frozen=True, slots=True)
class FileSystem:
    """``kind`` is the kernel's name for it, such as ``ext4``; ``free_bytes`` are for all users."""

    kind: str
    mount_point: str
    free_bytes: int

    @property
    def is_memory(self) -> bool:
        """Whether files in it take memory, and are gone after a restart of the machine."""
        return self.kind in {"tmpfs", "ramfs"}


def file_system(path: Path) -> FileSystem:
    """The file system of a path, which need not exist; raises ``OSError``."""
    real = path.resolve()
    there = next(part for part in (real, *real.parents) if part.exists())
    room = os.statvfs(there)
    kind, mount_point = _mount_of(there)
    return FileSystem(kind, mount_point, room.f_bavail * room.f_frsize)


def _mount_of(path: Path) -> tuple[str, str]:
    kind, mount_point = "unknown", "/"
    for line in _MOUNTS.read_text("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), before.split(" ")[4])
        # Of two mounts on one point the later one is seen.
        if path.is_relative_to(point) and len(point) >= len(mount_point):
            kind, mount_point = after.split(" ")[0], point
    return kind, mount_point
