"""Owners: people or teams with several keys, and how many calls of all of them may be in flight."""

import argparse
from typing import Any

from image_gateway.cli import output
from image_gateway.cli.control import arguments, keys
from image_gateway.cli.control.arguments import UsageError
from image_gateway.cli.output import cell
from image_gateway.edge.postgres.admin import AdminConnection, TableRow
from image_gateway.edge.postgres.own_tables import key_tables


def add_commands(kinds: "argparse._SubParsersAction[Any]") -> None:
    """Put ``owner`` on the command line."""
    owner = kinds.add_parser("owner", help="owners of keys")
    commands = owner.add_subparsers(required=True, metavar="COMMAND")

    create = arguments.add_command(commands, "create", _create, "create an owner")
    create.add_argument("owner_id", metavar="OWNER_ID", type=arguments.new_id)
    create.add_argument("--name", type=arguments.name, help="its name, for people")
    create.add_argument(
        "--max-concurrency", type=arguments.count, metavar="N", help=_MAX_CONCURRENCY
    )

    update = _add(commands, "update", _update, "change an owner")
    update.add_argument("--name", type=arguments.name, help="its name, for people")
    update.add_argument(
        "--max-concurrency",
        type=arguments.or_none(arguments.count),
        metavar="N|none",
        help=_MAX_CONCURRENCY,
    )

    _add(commands, "remove", _remove, "remove an owner that has no keys")
    arguments.add_command(commands, "list", _list, "list all owners")
    _add(commands, "show", _show, "show an owner and its keys")


_MAX_CONCURRENCY = "most calls of all its keys at a time; 0: no limit"


def _add(
    commands: "argparse._SubParsersAction[Any]", command: str, handler: Any, purpose: str
) -> argparse.ArgumentParser:
    parser = arguments.add_command(commands, command, handler, purpose)
    parser.add_argument("owner_id", metavar="OWNER_ID", type=arguments.name)
    return parser


def _create(admin: AdminConnection, args: argparse.Namespace) -> None:
    row = key_tables(admin).add_owner(
        {
            "owner_id": args.owner_id,
            "owner_name": args.name or "",
            "max_concurrency": args.max_concurrency,
        }
    )
    _show_row(args, row)


def _update(admin: AdminConnection, args: argparse.Namespace) -> None:
    changes: TableRow = {}
    if args.name is not None:
        changes["owner_name"] = args.name
    if args.max_concurrency is not None:
        is_none = args.max_concurrency is arguments.NO_VALUE
        changes["max_concurrency"] = None if is_none else args.max_concurrency
    if not changes:
        raise UsageError("nothing to change: give --name, --max-concurrency or both")
    row = key_tables(admin).change_owner(args.owner_id, lambda row: {**row, **changes})
    _show_row(args, row)


def _remove(admin: AdminConnection, args: argparse.Namespace) -> None:
    row = key_tables(admin).remove_owner(args.owner_id)
    output.show(args, row, f"removed owner {cell(row['owner_id'])}")


def _list(admin: AdminConnection, args: argparse.Namespace) -> None:
    rows = key_tables(admin).list_owners()
    columns = ("owner_id", "owner_name", "max_concurrency", "keys")
    cells = [[cell(row[column]) for column in columns] for row in rows]
    output.show(args, rows, output.listed(("owner", "name", "calls at a time", "keys"), cells))


def _show(admin: AdminConnection, args: argparse.Namespace) -> None:
    tables = key_tables(admin)
    owner, rows = tables.owner(args.owner_id), tables.list_keys(owner_id=args.owner_id)
    output.show(
        args,
        {**owner, "keys": [keys.public(row) for row in rows]},
        output.fields(owner),
        "",
        keys.listed(rows),
    )


def _show_row(args: argparse.Namespace, row: TableRow) -> None:
    output.show(args, row, output.fields(row))
