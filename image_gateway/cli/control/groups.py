"""Groups: whose keys may make images."""

import argparse
from typing import Any

from image_gateway.cli.control import keys, telling
from image_gateway.cli.control.telling import MistakeError, cell
from image_gateway.edge.postgres.standalone import Standalone, TableRow


def add_commands(kinds: "argparse._SubParsersAction[Any]") -> None:
    """Put ``group`` on the command line."""
    group = kinds.add_parser("group", help="groups of keys")
    commands = group.add_subparsers(required=True, metavar="COMMAND")

    create = telling.add_command(commands, "create", _create, "make a group, without images")
    create.add_argument("group_id", metavar="GROUP_ID", type=telling.name)
    create.add_argument("--name", type=telling.name, help="what people call it")
    create.add_argument("--images", action="store_true", help="its keys may make images")

    update = telling.add_command(commands, "update", _update, "change a group")
    update.add_argument("group_id", metavar="GROUP_ID", type=telling.name)
    update.add_argument("--images", choices=telling.SWITCH, help="whether its keys may make images")
    update.add_argument("--name", type=telling.name, help="what people call it")

    remove = telling.add_command(commands, "remove", _remove, "take away a group without keys")
    remove.add_argument("group_id", metavar="GROUP_ID", type=telling.name)

    telling.add_command(commands, "list", _list, "all groups")
    show = telling.add_command(commands, "show", _show, "a group with its keys")
    show.add_argument("group_id", metavar="GROUP_ID", type=telling.name)


def _create(plane: Standalone, given: argparse.Namespace) -> None:
    row = plane.add_group(
        {
            "group_id": given.group_id,
            "group_name": given.name or "",
            "image_enabled": given.images,
        }
    )
    _tell(given, row)


def _update(plane: Standalone, given: argparse.Namespace) -> None:
    if given.images is None and given.name is None:
        raise MistakeError("say what to change: --images or --name")

    def change(row: TableRow) -> TableRow:
        images = row["image_enabled"] if given.images is None else telling.SWITCH[given.images]
        return {**row, "image_enabled": images, "group_name": given.name or row["group_name"]}

    _tell(given, plane.change_group(given.group_id, change))


def _remove(plane: Standalone, given: argparse.Namespace) -> None:
    row = plane.remove_group(given.group_id)
    telling.tell(given, row, f"group {cell(row['group_id'])} is removed")


def _tell(given: argparse.Namespace, row: TableRow) -> None:
    switch = "may" if row["image_enabled"] else "may not"
    telling.tell(given, row, f"group {cell(row['group_id'])}: its keys {switch} make images")


def _list(plane: Standalone, given: argparse.Namespace) -> None:
    rows = plane.list_groups()
    shown = [
        [cell(row[column]) for column in ("group_id", "group_name", "image_enabled", "keys")]
        for row in rows
    ]
    telling.tell(given, rows, telling.listed(("group", "name", "images", "keys"), shown))


def _show(plane: Standalone, given: argparse.Namespace) -> None:
    group, rows = plane.group(given.group_id), plane.list_keys(given.group_id)
    telling.tell(
        given,
        {**group, "keys": [keys.public(row) for row in rows]},
        telling.fields(group),
        "",
        keys.listed(rows),
    )
