"""Keys: who may call, and what each may do."""

import argparse
import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from image_gateway.cli import output
from image_gateway.cli.control import arguments, row_checks
from image_gateway.cli.control.arguments import UsageError
from image_gateway.cli.output import cell
from image_gateway.core.model import Key
from image_gateway.core.rows import key_from_row
from image_gateway.edge.postgres.standalone import Standalone, TableRow

SECRET_PREFIX: Final = "sk-ig-"  # noqa: S105 - how a secret begins is none
SECRET_BYTES: Final = 32
_LIMITS: Final = {
    "max_concurrency": arguments.count,
    "min_start_interval_ms": arguments.count,
    "quota": arguments.quota,
}


def add_commands(kinds: "argparse._SubParsersAction[Any]") -> None:
    """Put ``key`` on the command line."""
    key = kinds.add_parser("key", help="API keys")
    commands = key.add_subparsers(required=True, metavar="COMMAND")
    _add_create(commands)
    arguments.add_command(commands, "list", _list, "all keys")
    _add(commands, "show", _show, "a key's fields")
    _add(commands, "secret", _renew_secret, "give a key a new secret and show it, once")
    _add(commands, "enable", _set_status("active"), "let a key call")
    _add(commands, "disable", _set_status("disabled"), "refuse a key's calls")
    _add(commands, "remove", _remove, "take a key away")
    images = _add(commands, "images", _set_images, "switch a key's images")
    images.add_argument("switch", choices=arguments.SWITCH)
    _add_limits(commands)
    _add_lists(commands)


def _add(
    commands: "argparse._SubParsersAction[Any]", word: str, handler: Any, purpose: str
) -> argparse.ArgumentParser:
    made = arguments.add_command(commands, word, handler, purpose)
    made.add_argument("key_id", metavar="KEY_ID", type=arguments.name)
    return made


def _add_create(commands: "argparse._SubParsersAction[Any]") -> None:
    create = arguments.add_command(
        commands, "create", _create, "make a key and show its secret, once"
    )
    create.add_argument("key_id", metavar="KEY_ID", type=arguments.new_key_id)
    create.add_argument("--name", type=arguments.name, help="what people call it")
    create.add_argument("--group", type=arguments.name, help="the group it belongs to")
    create.add_argument("--models", type=arguments.names, metavar="A,B", help="only these models")
    create.add_argument(
        "--accounts", type=arguments.names, metavar="A,B", help="only these accounts"
    )
    for limit, parse in _LIMITS.items():
        create.add_argument(_option(limit), type=parse, metavar="N", help=_PURPOSES[limit])


def _add_limits(commands: "argparse._SubParsersAction[Any]") -> None:
    limits = _add(commands, "limits", _set_limits, "change a key's limits")
    for limit, parse in _LIMITS.items():
        limits.add_argument(
            _option(limit), type=_or_none(parse), metavar="N|none", help=_PURPOSES[limit]
        )


def _add_lists(commands: "argparse._SubParsersAction[Any]") -> None:
    models = _add(commands, "models", _set_models, "which models a key may ask for")
    models.add_argument("names", nargs="*", metavar="NAME", type=arguments.name)
    models.add_argument("--all", action="store_true", help="every model")
    maps = models.add_mutually_exclusive_group()
    maps.add_argument(
        "--map",
        nargs="+",
        action="extend",
        type=arguments.pair,
        metavar="PUBLIC=UPSTREAM",
        help="what a model is called upstream",
    )
    maps.add_argument("--no-map", action="store_true", help="every model by its own name")

    group = _add(commands, "group", _set_group, "put a key into a group")
    groups = group.add_mutually_exclusive_group(required=True)
    groups.add_argument("group", nargs="?", metavar="GROUP", type=arguments.name)
    groups.add_argument("--none", action="store_true", help="take it out of its group")

    accounts = _add(commands, "accounts", _set_accounts, "which accounts a key may use")
    accounts.add_argument("names", nargs="*", metavar="NAME", type=arguments.name)
    accounts.add_argument("--all", action="store_true", help="every account")
    ways = accounts.add_mutually_exclusive_group()
    for way in ("fixed", "auto"):
        ways.add_argument(f"--{way}", dest="way", action="store_const", const=way, help=_WAYS[way])


_PURPOSES: Final = {
    "max_concurrency": "calls at once; 0 is no limit",
    "min_start_interval_ms": "milliseconds between the starts of calls; 0 is no limit",
    "quota": "tokens in all",
}
_WAYS: Final = {"fixed": "in the order given", "auto": "the best one first"}


def _option(limit: str) -> str:
    return f"--{limit.replace('_', '-')}"


class _NoLimit:
    """What ``none`` stands for, where None is an option that was not given."""


def _or_none(parse: Callable[[str], int]) -> Callable[[str], int | _NoLimit]:
    def parsed(text: str) -> int | _NoLimit:
        return _NoLimit() if text == "none" else parse(text)

    return parsed


# -- acts ------------------------------------------------------------------------------------------


def _create(plane: Standalone, args: argparse.Namespace) -> None:
    secret = _new_secret()
    row = {
        "key_id": args.key_id,
        "key_name": args.name or "",
        "key_hash": _hashed(secret),
        "status": "active",
        "image_enabled": True,
        "group_id": args.group,
        "quota_limit": args.quota,
        "max_concurrency": args.max_concurrency,
        "min_start_interval_ms": args.min_start_interval_ms,
        "allowed_models": args.models,
        "model_map": None,
        "account_names": args.accounts,
        "route_strategy": "auto",
    }
    _as_read(row)
    _show_secret(args, plane.add_key(row), secret, "is made. Its secret")


def _renew_secret(plane: Standalone, args: argparse.Namespace) -> None:
    secret = _new_secret()
    row = plane.change_key(args.key_id, lambda row: {**row, "key_hash": _hashed(secret)})
    _show_secret(args, row, secret, "knows its old secret no more. The new one")


def _list(plane: Standalone, args: argparse.Namespace) -> None:
    rows = plane.list_keys()
    output.show(args, [public(row) for row in rows], listed(rows))


def _show(plane: Standalone, args: argparse.Namespace) -> None:
    _show_row(args, plane.key(args.key_id))


def _remove(plane: Standalone, args: argparse.Namespace) -> None:
    row = plane.remove_key(args.key_id)
    output.show(args, public(row), f"key {cell(row['key_id'])} is removed")


def _set_status(status: str) -> Callable[[Standalone, argparse.Namespace], None]:
    def handler(plane: Standalone, args: argparse.Namespace) -> None:
        _change(plane, args, {"status": status})

    return handler


def _set_images(plane: Standalone, args: argparse.Namespace) -> None:
    _change(plane, args, {"image_enabled": arguments.SWITCH[args.switch]})


def _set_limits(plane: Standalone, args: argparse.Namespace) -> None:
    found = {limit: getattr(args, limit) for limit in _LIMITS}
    changes = {
        "quota_limit" if limit == "quota" else limit: None if isinstance(value, _NoLimit) else value
        for limit, value in found.items()
        if value is not None
    }
    if not changes:
        raise UsageError(f"say which limit: {', '.join(map(_option, _LIMITS))}")
    _change(plane, args, changes)


def _set_models(plane: Standalone, args: argparse.Namespace) -> None:
    changes: TableRow = _chosen(args, "allowed_models")
    if args.map:
        changes["model_map"] = dict(args.map)
    elif args.no_map:
        changes["model_map"] = None
    if not changes:
        raise UsageError("say which models: NAME..., --all, --map or --no-map")
    _change(plane, args, changes)


def _set_group(plane: Standalone, args: argparse.Namespace) -> None:
    _change(plane, args, {"group_id": args.group})


def _set_accounts(plane: Standalone, args: argparse.Namespace) -> None:
    changes: TableRow = _chosen(args, "account_names")
    if args.way is not None:
        changes["route_strategy"] = args.way
    if not changes:
        raise UsageError("say which accounts: NAME... or --all, --fixed or --auto")
    _change(plane, args, changes)


def _chosen(args: argparse.Namespace, column: str) -> TableRow:
    """What NAME... and ``--all`` make of a column in which null is all."""
    if args.names and args.all:
        raise UsageError("say either NAME... or --all")
    return {column: args.names or None} if args.names or args.all else {}


def _change(plane: Standalone, args: argparse.Namespace, changes: TableRow) -> None:
    def change(row: TableRow) -> TableRow:
        changed = {**row, **changes}
        row_checks.refuse_new(_as_read, row, changed)
        return changed

    _show_row(args, plane.change_key(args.key_id, change))


def _as_read(row: Mapping[str, object]) -> Key:
    """The key as the daemon reads it, but for what the view works out."""
    return key_from_row({**row, "group_image_enabled": None, "quota_remaining": None})


def _new_secret() -> str:
    return SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


# -- how keys are told -----------------------------------------------------------------------------


def public(row: TableRow) -> TableRow:
    """A key's columns, without the hash of its secret."""
    return {column: value for column, value in row.items() if column != "key_hash"}


def listed(rows: Sequence[TableRow]) -> str:
    """Keys as a table."""
    return output.listed(
        ("key", "name", "status", "images", "group", "used", "quota"),
        [
            [
                cell(row["key_id"]),
                cell(row["key_name"]),
                cell(row["status"]),
                cell(row["image_enabled"]),
                cell(row["group_id"]),
                cell(row["quota_used"]),
                cell(row["quota_limit"]),
            ]
            for row in rows
        ],
    )


def _show_secret(args: argparse.Namespace, row: TableRow, secret: str, what: str) -> None:
    """The only time that a secret is told, alone on the last line."""
    told = f"key {cell(row['key_id'])} {what}, which is shown only now:"
    output.show(args, {**public(row), "secret": secret}, told, secret)


def _show_row(args: argparse.Namespace, row: TableRow) -> None:
    output.show(args, public(row), output.fields(public(row)))
