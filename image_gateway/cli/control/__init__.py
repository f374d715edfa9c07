"""``image-gateway control``: keys, groups, owners, accounts and usage in the gateway's own tables.

Each command makes one change over ADMIN_DATABASE_URL and prints the result, for people or with
``--json`` for programs.  A row that would break the contract is refused before anything is written,
by the checks of the daemon itself (``core.rows``); a name that exists already, or does not exist,
changes nothing.  A key's secret is shown once and never stored, only replaced; an account's secret
is read from a file or stdin, never from the command line, and never shown again.
"""

import argparse
from collections.abc import Callable
from typing import Any

from image_gateway.cli.control import accounts, groups, keys, owners, usage
from image_gateway.cli.control.arguments import UsageError
from image_gateway.cli.environment import setting
from image_gateway.cli.exits import (
    BAD_SETTINGS,
    CONTROL_PLANE_UNUSABLE,
    FAILED,
    CommandError,
    handled,
)
from image_gateway.cli.output import escaped
from image_gateway.core.rows import RowError
from image_gateway.edge.postgres import admin
from image_gateway.edge.postgres.admin import AdminConnection, UnusableError
from image_gateway.edge.postgres.own_tables import InUseError, NotThereError, TakenError

_MISSING = (
    "IMAGE_GATEWAY_ADMIN_DATABASE_URL is missing: set it to the URL of the control "
    "plane's Postgres, with a role that may write, or set IMAGE_GATEWAY_ADMIN_DATABASE_URL_FILE to "
    "a file that holds this URL"
)


def add_command(commands: "argparse._SubParsersAction[Any]") -> None:
    """Put ``control`` on the command line."""
    control = commands.add_parser("control", help="change keys and accounts, charge calls")
    control.set_defaults(run=handled(_run))
    kinds = control.add_subparsers(required=True, metavar="KIND")
    for kind in (keys, groups, owners, accounts, usage):
        kind.add_commands(kinds)


def _run(args: argparse.Namespace) -> None:
    """Raises ``CommandError``, and ``config.SettingsError``."""
    handler: Callable[[AdminConnection, argparse.Namespace], None] = args.handler
    database = setting("ADMIN_DATABASE_URL")
    if database is None:
        raise CommandError(_MISSING, BAD_SETTINGS)
    try:
        with admin.connected(database) as connection:
            handler(connection, args)
    except (RowError, UsageError) as error:
        raise CommandError(escaped(str(error)), BAD_SETTINGS) from None
    except (NotThereError, TakenError, InUseError) as error:
        raise CommandError(escaped(str(error)), FAILED) from None
    except UnusableError as error:
        raise CommandError(escaped(str(error)), CONTROL_PLANE_UNUSABLE) from None
