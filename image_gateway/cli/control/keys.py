"""Keys: who may call, and what each may do."""

import argparse
import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from image_gateway.cli import output
from image_gateway.cli.control import arguments, row_checks
from image_gateway.cli.control.arguments import UsageError
from image_gateway.cli.output import cell
from image_gateway.core.model import Key
from image_gateway.core.rows import key_from_row
from image_gateway.edge.postgres.admin import AdminConnection, TableRow
from image_gateway.edge.postgres.own_tables import key_tables

SECRET_PREFIX: Final = "sk-ig-"  # noqa: S105 - a prefix is not a secret
SECRET_BYTES: Final = 32


class _Limit(NamedTuple):
    """An option that sets a limit, and the column of the key that holds it."""

    option: str
    column: str
    parse: Callable[[str], Any]
    metavar: str
    purpose: str


_LIMITS: Final = (
    _Limit(
        "--max-concurrency",
        "max_concurrency",
        arguments.count,
        "N",
        "most calls at a time; 0: no limit",
    ),
    _Limit(
        "--min-start-interval-ms",
        "min_start_interval_ms",
        arguments.count,
        "N",
        "least milliseconds between two starts of calls; 0: no limit",
    ),
    _Limit("--quota", "quota_limit", arguments.quota, "N", "most tokens in total"),
    _Limit("--images", "image_limit", arguments.quota, "N", "most pictures in total"),
    _Limit(
        "--images-per-day", "image_limit_day", arguments.quota, "N", "most pictures in a day (UTC)"
    ),
    _Limit(
        "--images-per-month",
        "image_limit_month",
        arguments.quota,
        "N",
        "most pictures in a month (UTC)",
    ),
    _Limit("--usd", "cost_limit", arguments.dollars, "X", "most USD in total"),
    _Limit("--usd-per-day", "cost_limit_day", arguments.dollars, "X", "most USD in a day (UTC)"),
    _Limit(
        "--usd-per-month", "cost_limit_month", arguments.dollars, "X", "most USD in a month (UTC)"
    ),
    _Limit(
        "--expires", "expires_at", arguments.moment, "T", "the time from which calls are refused"
    ),
    _Limit(
        "--json-keepalive-seconds",
        "json_keepalive_seconds",
        arguments.count,
        "N",
        "for this key in place of JSON_KEEPALIVE_SECONDS",
    ),
)


def add_commands(kinds: "argparse._SubParsersAction[Any]") -> None:
    """Put ``key`` on the command line."""
    key = kinds.add_parser("key", help="API keys")
    commands = key.add_subparsers(required=True, metavar="COMMAND")
    _add_create(commands)
    arguments.add_command(commands, "list", _list, "list all keys")
    _add(commands, "show", _show, "show a key's fields")
    _add(commands, "secret", _renew_secret, "give a key a new secret and show it once")
    _add(commands, "enable", _set_status("active"), "accept a key's calls")
    _add(commands, "disable", _set_status("disabled"), "refuse a key's calls")
    _add(commands, "remove", _remove, "remove a key")
    images = _add(commands, "images", _set_images, "let a key make images, or not")
    images.add_argument("switch", choices=arguments.SWITCH)
    _add_limits(commands)
    _add_lists(commands)


def _add(
    commands: "argparse._SubParsersAction[Any]", command: str, handler: Any, purpose: str
) -> argparse.ArgumentParser:
    parser = arguments.add_command(commands, command, handler, purpose)
    parser.add_argument("key_id", metavar="KEY_ID", type=arguments.name)
    return parser


def _add_create(commands: "argparse._SubParsersAction[Any]") -> None:
    create = arguments.add_command(
        commands, "create", _create, "create a key and show its secret once"
    )
    create.add_argument("key_id", metavar="KEY_ID", type=arguments.new_id)
    create.add_argument("--name", type=arguments.name, help="its name, for people")
    create.add_argument("--group", type=arguments.name, help="the group it belongs to")
    create.add_argument("--owner", type=arguments.name, help="the owner it belongs to")
    create.add_argument(
        "--models", type=arguments.names, metavar="A,B", help="allow only these models"
    )
    create.add_argument(
        "--accounts", type=arguments.names, metavar="A,B", help="use only these accounts"
    )
    for limit in _LIMITS:
        create.add_argument(
            limit.option,
            dest=limit.column,
            type=limit.parse,
            metavar=limit.metavar,
            help=limit.purpose,
        )


def _add_limits(commands: "argparse._SubParsersAction[Any]") -> None:
    limits = _add(commands, "limits", _set_limits, "change a key's limits")
    for limit in _LIMITS:
        limits.add_argument(
            limit.option,
            dest=limit.column,
            type=arguments.or_none(limit.parse),
            metavar=f"{limit.metavar}|none",
            help=limit.purpose,
        )


def _add_lists(commands: "argparse._SubParsersAction[Any]") -> None:
    models = _add(commands, "models", _set_models, "set which models a key may ask for")
    models.add_argument("names", nargs="*", metavar="NAME", type=arguments.name)
    models.add_argument("--all", action="store_true", help="allow every model")
    maps = models.add_mutually_exclusive_group()
    maps.add_argument(
        "--map",
        nargs="+",
        action="extend",
        type=arguments.pair,
        metavar="PUBLIC=UPSTREAM",
        help="ask upstreams for model UPSTREAM if a call names PUBLIC",
    )
    maps.add_argument("--no-map", action="store_true", help="ask for each model by its own name")

    group = _add(commands, "group", _set_group, "put a key into a group, or into none")
    groups = group.add_mutually_exclusive_group(required=True)
    groups.add_argument("group", nargs="?", metavar="GROUP", type=arguments.name)
    groups.add_argument("--none", action="store_true", help="take the key out of its group")

    owner = _add(commands, "owner", _set_owner, "give a key to an owner, or to none")
    owners = owner.add_mutually_exclusive_group(required=True)
    owners.add_argument("owner", nargs="?", metavar="OWNER", type=arguments.name)
    owners.add_argument("--none", action="store_true", help="take the key from its owner")

    accounts = _add(commands, "accounts", _set_accounts, "set which accounts a key may use")
    accounts.add_argument("names", nargs="*", metavar="NAME", type=arguments.name)
    accounts.add_argument("--all", action="store_true", help="use every account")
    strategies = accounts.add_mutually_exclusive_group()
    for strategy, purpose in _STRATEGIES.items():
        strategies.add_argument(
            f"--{strategy}", dest="strategy", action="store_const", const=strategy, help=purpose
        )


_STRATEGIES: Final = {
    "fixed": "try the accounts in the order given",
    "auto": "try the best account first",
}


# -- handlers --------------------------------------------------------------------------------------


def _create(admin: AdminConnection, args: argparse.Namespace) -> None:
    secret = _new_secret()
    row = {
        "key_id": args.key_id,
        "key_name": args.name or "",
        "key_hash": _hashed(secret),
        "status": "active",
        "image_enabled": True,
        "group_id": args.group,
        "owner_id": args.owner,
        **{limit.column: getattr(args, limit.column) for limit in _LIMITS},
        "allowed_models": args.models,
        "model_map": None,
        "account_names": args.accounts,
        "route_strategy": "auto",
    }
    _as_read(row)
    _show_secret(args, key_tables(admin).add_key(row), secret, "secret of the new key {}")


def _renew_secret(admin: AdminConnection, args: argparse.Namespace) -> None:
    secret = _new_secret()
    row = key_tables(admin).change_key(
        args.key_id, lambda row: {**row, "key_hash": _hashed(secret)}
    )
    _show_secret(args, row, secret, "new secret for key {}")


def _list(admin: AdminConnection, args: argparse.Namespace) -> None:
    rows = key_tables(admin).list_keys()
    output.show(args, [public(row) for row in rows], listed(rows))


def _show(admin: AdminConnection, args: argparse.Namespace) -> None:
    _show_row(args, key_tables(admin).key(args.key_id))


def _remove(admin: AdminConnection, args: argparse.Namespace) -> None:
    row = key_tables(admin).remove_key(args.key_id)
    output.show(args, public(row), f"removed key {cell(row['key_id'])}")


def _set_status(status: str) -> Callable[[AdminConnection, argparse.Namespace], None]:
    def handler(admin: AdminConnection, args: argparse.Namespace) -> None:
        _change(admin, args, {"status": status})

    return handler


def _set_images(admin: AdminConnection, args: argparse.Namespace) -> None:
    _change(admin, args, {"image_enabled": arguments.SWITCH[args.switch]})


def _set_limits(admin: AdminConnection, args: argparse.Namespace) -> None:
    changes = {
        limit.column: None if value is arguments.NO_VALUE else value
        for limit in _LIMITS
        if (value := getattr(args, limit.column)) is not None
    }
    if not changes:
        options = ", ".join(limit.option for limit in _LIMITS)
        raise UsageError(f"nothing to change: give one of {options}")
    _change(admin, args, changes)


def _set_models(admin: AdminConnection, args: argparse.Namespace) -> None:
    changes: TableRow = _selection(args, "allowed_models")
    if args.map:
        changes["model_map"] = dict(args.map)
    elif args.no_map:
        changes["model_map"] = None
    if not changes:
        raise UsageError("nothing to change: give NAME... or --all, --map or --no-map")
    _change(admin, args, changes)


def _set_group(admin: AdminConnection, args: argparse.Namespace) -> None:
    _change(admin, args, {"group_id": args.group})


def _set_owner(admin: AdminConnection, args: argparse.Namespace) -> None:
    _change(admin, args, {"owner_id": args.owner})


def _set_accounts(admin: AdminConnection, args: argparse.Namespace) -> None:
    changes: TableRow = _selection(args, "account_names")
    if args.strategy is not None:
        changes["route_strategy"] = args.strategy
    if not changes:
        raise UsageError("nothing to change: give NAME... or --all, --fixed or --auto")
    _change(admin, args, changes)


def _selection(args: argparse.Namespace, column: str) -> TableRow:
    """The change that NAME... or ``--all`` makes to a column in which null means all."""
    if args.names and args.all:
        raise UsageError("give either NAME... or --all, not both")
    if any("," in name for name in args.names):
        raise UsageError("separate the names with spaces, not with commas")
    return {column: args.names or None} if args.names or args.all else {}


def _change(admin: AdminConnection, args: argparse.Namespace, changes: TableRow) -> None:
    def change(row: TableRow) -> TableRow:
        changed = {**row, **changes}
        row_checks.refuse_new(_as_read, row, changed)
        return changed

    _show_row(args, key_tables(admin).change_key(args.key_id, change))


def _as_read(row: Mapping[str, object]) -> Key:
    """The key as the daemon reads it, except for the columns that the view computes."""
    return key_from_row({**row, "group_image_enabled": None, "quota_remaining": None})


def _new_secret() -> str:
    return SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


# -- output ----------------------------------------------------------------------------------------


def public(row: TableRow) -> TableRow:
    """A key's columns, without the hash of its secret."""
    return {column: value for column, value in row.items() if column != "key_hash"}


def listed(rows: Sequence[TableRow]) -> str:
    """Keys as a table."""
    return output.listed(
        ("key", "name", "status", "images", "group", "owner", "tokens", "pictures", "USD"),
        [
            [
                cell(row["key_id"]),
                cell(row["key_name"]),
                cell(row["status"]),
                cell(row["image_enabled"]),
                cell(row["group_id"]),
                cell(row["owner_id"]),
                _used(row["quota_used"], row["quota_limit"]),
                _used(row["images_used"], row["image_limit"]),
                _used(row["cost_used"], row["cost_limit"]),
            ]
            for row in rows
        ],
    )


def _used(used: object, limit: object) -> str:
    """How much of a total was used, and how much may be."""
    return cell(used) if limit is None else f"{cell(used)} of {cell(limit)}"


def _show_secret(args: argparse.Namespace, row: TableRow, secret: str, heading: str) -> None:
    """Show a secret, the only time that it is shown, alone on the last line."""
    heading = f"{heading.format(cell(row['key_id']))} (shown once):"
    output.show(args, {**public(row), "secret": secret}, heading, secret)


def _show_row(args: argparse.Namespace, row: TableRow) -> None:
    output.show(args, public(row), output.fields(public(row)))
