"""A real PgBouncer in front of a real Postgres."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from psycopg.conninfo import conninfo_to_dict

from tests.parts.eventually import eventually_blocking
from tests.parts.gateway import free_port

_STEP_SECONDS = 0.02


@contextmanager
def pgbouncer(
    server_url: str, pool_mode: str = "transaction", *, over: str = "tcp", **settings: Any
) -> Iterator[str]:
    """A running pooler; gives its URL, which is ``server_url`` by another way.

    ``over`` is ``tcp`` or ``unix``, the way to the pooler.  ``settings`` are PgBouncer's own, those
    of its section ``[pgbouncer]``.  Every database of the server is there; of the roles the URL's
    own and the control plane's reader.
    """
    server = conninfo_to_dict(server_url)
    port = free_port()
    owner = _owner(str(server.get("host", "")))
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    try:
        _configure(folder, server, {"pool_mode": pool_mode, "listen_port": port, **settings})
        as_owner: dict[str, Any] = {}
        if os.geteuid() == 0:
            for path in (folder, *folder.iterdir()):
                os.chown(path, owner.pw_uid, owner.pw_gid)
            as_owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        with (folder / "words.log").open("wb") as words:
            process = subprocess.Popen(
                [_program(), str(folder / "pgbouncer.ini")],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                **as_owner,
            )
        try:
            _await(process, folder, f"{folder}/.s.PGSQL.{port}" if over == "unix" else port)
            way = {"host": folder if over == "unix" else "127.0.0.1", "port": port}
            yield urlunsplit(urlsplit(server_url)._replace(query=urlencode(way)))
        finally:
            # What SIGTERM does changed with version 1.23, and there is nothing to save.
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(folder)


def _program() -> str:
    # /usr/sbin is not on every user's PATH.
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise AssertionError(
            "there is no pgbouncer on the PATH, and these tests need it; "
            "on Debian: apt-get install pgbouncer"
        )
    return program


def _owner(host: str) -> pwd.struct_passwd:
    """Whom to run as: PgBouncer refuses to be root, and only its owner may enter a data folder."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    owner = pwd.getpwuid(Path(host).stat().st_uid) if host.startswith("/") else None
    return owner if owner is not None and owner.pw_uid != 0 else pwd.getpwnam("nobody")


def _configure(folder: Path, server: dict[str, Any], settings: dict[str, Any]) -> None:
    (folder / "users.txt").write_text(f'"{server["user"]}" ""\n"image_gateway_reader" ""\n')
    (folder / "pgbouncer.ini").write_text(
        "\n".join(
            [
                "[databases]",
                f"* = host={server['host']} port={server.get('port', 5432)}",
                "[pgbouncer]",
                "listen_addr = 127.0.0.1",
                f"unix_socket_dir = {folder}",
                "auth_type = trust",
                f"auth_file = {folder}/users.txt",
                *(f"{name} = {value}" for name, value in settings.items()),
                "",
            ]
        )
    )


def _await(process: "subprocess.Popen[bytes]", folder: Path, listener: str | int) -> None:
    """Wait until the TCP port or the Unix socket accepts connections.

    A bare socket tries it: a login would leave PgBouncer with a connection to Postgres, and some
    tests want to meet it without one.
    """

    def words() -> str:
        return (folder / "words.log").read_text("utf-8", "replace")

    def listens() -> bool:
        assert process.poll() is None, f"pgbouncer ended by itself: {words()}"
        family = socket.AF_UNIX if isinstance(listener, str) else socket.AF_INET
        address = listener if isinstance(listener, str) else ("127.0.0.1", listener)
        with (
            contextlib.suppress(ConnectionRefusedError, FileNotFoundError),
            socket.socket(family) as client,
        ):
            client.connect(address)
            return True
        return False

    eventually_blocking(listens, log=words)
