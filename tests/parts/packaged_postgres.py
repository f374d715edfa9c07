"""A real Postgres of a version that no wheel brings, from the distribution's own package."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_START_SECONDS = 60


@contextmanager
def packaged(version: int) -> Iterator[str]:
    """A running server; gives its URL, for the superuser and over a Unix socket."""
    programs = _programs(version)
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    as_owner: dict[str, Any] = {}
    if os.geteuid() == 0:
        # Postgres refuses to be root.
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        as_owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}

    def run(program: str, *words: str) -> None:
        subprocess.run(
            [programs / program, "-D", folder / "data", *words],
            cwd=folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=_START_SECONDS,
            **as_owner,
        )

    try:
        run("initdb", "-U", "postgres", "-A", "trust", "-E", "utf8", "--locale=C", "--no-sync")
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-h '' -k {folder} -F", "start")
        try:
            yield f"postgresql://postgres:@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def _programs(version: int) -> Path:
    # Where Debian and Ubuntu keep each version; elsewhere the PATH has one, if any.
    places = [Path(f"/usr/lib/postgresql/{version}/bin")]
    on_path = shutil.which("initdb")
    if on_path is not None:
        places.append(Path(on_path).resolve().parent)
    for place in places:
        if (place / "postgres").exists() and f" {version}." in _said(place / "postgres"):
            return place
    raise AssertionError(
        f"there is no Postgres {version}, and these tests need it; "
        f"on Debian: apt-get install postgresql-{version}"
    )


def _said(program: Path) -> str:
    return subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stdout
