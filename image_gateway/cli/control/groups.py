"""Groups: whose keys may make images."""

import argparse
from typing import Any

from image_gateway.cli import output
from image_gateway.cli.control import arguments, keys
from image_gateway.cli.control.arguments import UsageError
from image_gateway.cli.output import cell
from image_gateway.edge.postgres.admin import AdminConnection, TableRow
from image_gateway.edge.postgres.own_tables import key_tables


def add_commands(kinds: "argparse._SubParsersAction[Any]") -> None:
    """Put ``group`` on the command line."""
    group = kinds.add_parser("group", help="groups of keys")
    commands = group.add_subparsers(required=True, metavar="COMMAND")

    create = arguments.add_command(commands, "create", _create, "create a group")
    create.add_argument("group_id", metavar="GROUP_ID", type=arguments.name)
    create.add_argument("--name", type=arguments.name, help="its name, for people")
    create.add_argument("--images", action="store_true", help="let its keys make images")

    update = arguments.add_command(commands, "update", _update, "change a group")
    update.add_argument("group_id", metavar="GROUP_ID", type=arguments.name)
    update.add_argument(
        "--images", choices=arguments.SWITCH, help="whether its keys may make images"
    )
    update.add_argument("--name", type=arguments.name, help="its name, for people")

    remove = arguments.add_command(commands, "remove", _remove, "remove a group that has no keys")
    remove.add_argument("group_id", metavar="GROUP_ID", type=arguments.name)

    arguments.add_command(commands, "list", _list, "list all groups")
    show = arguments.add_command(commands, "show", _show, "show a group and its keys")
    show.add_argument("group_id", metavar="GROUP_ID", type=arguments.name)


def _create(admin: AdminConnection, args: argparse.Namespace) -> None:
    row = key_tables(admin).add_group(
        {
            "group_id": args.group_id,
            "group_name": args.name or "",
            "image_enabled": args.images,
        }
    )
    _show_row(args, row)


def _update(admin: AdminConnection, args: argparse.Namespace) -> None:
    if args.images is None and args.name is None:
        raise UsageError("nothing to change: give --images, --name or both")

    def change(row: TableRow) -> TableRow:
        images = row["image_enabled"] if args.images is None else arguments.SWITCH[args.images]
        return {**row, "image_enabled": images, "group_name": args.name or row["group_name"]}

    _show_row(args, key_tables(admin).change_group(args.group_id, change))


def _remove(admin: AdminConnection, args: argparse.Namespace) -> None:
    row = key_tables(admin).remove_group(args.group_id)
    output.show(args, row, f"removed group {cell(row['group_id'])}")


def _show_row(args: argparse.Namespace, row: TableRow) -> None:
    switch = "may" if row["image_enabled"] else "may not"
    output.show(args, row, f"group {cell(row['group_id'])}: its keys {switch} make images")


def _list(admin: AdminConnection, args: argparse.Namespace) -> None:
    rows = key_tables(admin).list_groups()
    cells = [
        [cell(row[column]) for column in ("group_id", "group_name", "image_enabled", "keys")]
        for row in rows
    ]
    output.show(args, rows, output.listed(("group", "name", "images", "keys"), cells))


def _show(admin: AdminConnection, args: argparse.Namespace) -> None:
    tables = key_tables(admin)
    group, rows = tables.group(args.group_id), tables.list_keys(group_id=args.group_id)
    output.show(
        args,
        {**group, "keys": [keys.public(row) for row in rows]},
        output.fields(group),
        "",
        keys.listed(rows),
    )
