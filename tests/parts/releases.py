"""The project as it lies here, in a clone that releases are built from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


class Releases:
    """A clone with the tree's own state on top; each ``build`` is a commit and a version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self._git("clone", "--quiet", str(PROJECT), str(self.folder), at=folder)
        listed = self._git(
            "ls-files", "-z", "--cached", "--others", "--exclude-standard", at=PROJECT
        )
        for name in filter(None, listed.split("\0")):
            source, target = PROJECT / name, self.folder / name
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
            else:
                target.unlink(missing_ok=True)

    def build(self, changed: Path | None = None, more: str = "") -> Path:
        """An artifact; ``more`` is added to a file for this one alone.  Gives its path."""
        before = None if changed is None else changed.read_text("utf-8")
        if changed is not None and before is not None:
            changed.write_text(before + more, "utf-8")
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "--message", "A release")
        done = subprocess.run(
            [sys.executable, self.folder / "scripts" / "release", "build"],
            check=True,
            capture_output=True,
            text=True,
        )
        if changed is not None and before is not None:
            changed.write_text(before, "utf-8")
        return self.folder / done.stdout.split()[0]

    def _git(self, *arguments: str, at: Path | None = None) -> str:
        who = {
            f"GIT_{role}_{what}": "test"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        return subprocess.run(
            ["git", *arguments],
            cwd=at or self.folder,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **who},
        ).stdout


def version(artifact: Path) -> str:
    """The release that an artifact holds."""
    return artifact.name.removeprefix("image-gateway-").removesuffix(".tar.gz")
