"""Accounts: where pictures are made, and the credentials that sign calls."""

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import orjson

from image_gateway.cli import output
from image_gateway.cli.control import arguments, row_checks
from image_gateway.cli.control.arguments import UsageError
from image_gateway.cli.output import cell, complain, escaped
from image_gateway.core.dialects import DIALECTS, Dialect
from image_gateway.core.model import DEFAULT_SLOTS, Credential
from image_gateway.core.request.model_names import is_image_model
from image_gateway.core.rows import account_from_row
from image_gateway.edge.postgres.admin import AdminConnection, TableRow
from image_gateway.edge.postgres.own_tables import OwnTables

_NOT_V1: Final = (
    "the path of the base URL does not end in /v1, as OpenAI's does: calls go to exactly this URL, "
    "with /images/... appended"
)
_PUBLIC_COLUMNS: Final = (
    "account_name",
    "dialect",
    "status",
    "image_enabled",
    "image_max_concurrency",
    "base_url",
    "api_version",
    "deployments",
    "client_version",
    "responses_model",
    "codex_route",
    "proxy_url",
    "routing_weight",
    "used_percent_primary",
    "used_percent_secondary",
    "same_account_retries",
    "fails_free",
    "blocked_until",
    "created_at",
)


def add_commands(kinds: "argparse._SubParsersAction[Any]") -> None:
    """Put ``account`` on the command line."""
    account = kinds.add_parser("account", help="upstream accounts")
    commands = account.add_subparsers(required=True, metavar="COMMAND")
    _add_add(commands)
    credential = _add(commands, "credential", _set_credential, "replace an account's credential")
    files = credential.add_mutually_exclusive_group(required=True)
    files.add_argument("--codex-auth", metavar="FILE", help=_CODEX_AUTH)
    files.add_argument("--api-key-file", metavar="FILE", help=_API_KEY_FILE)
    arguments.add_command(commands, "list", _list, "list all accounts")
    _add(commands, "show", _show, "show an account's fields, without its secrets")
    update = _add(commands, "update", _update, "change an account's URL, main model or billing")
    update.add_argument(
        "--base-url",
        type=arguments.name,
        metavar="URL|none",
        help="where calls go; none: the usual URL of Codex or OpenAI",
    )
    update.add_argument(
        "--responses-model",
        type=arguments.name,
        metavar="MODEL|none",
        help="the main model of Responses calls; none: the account serves none",
    )
    update.add_argument("--fails-free", action=argparse.BooleanOptionalAction, help=_FAILS_FREE)
    _add(commands, "remove", _remove, "remove an account")
    _add(commands, "enable", _set_status("active"), "use an account")
    _add(commands, "disable", _set_status("disabled"), "stop using an account")
    images = _add(commands, "images", _set_images, "use an account for images, or not")
    images.add_argument("switch", choices=arguments.SWITCH)
    slots = _add(commands, "slots", _set_slots, "set how many calls an account takes at a time")
    slots.add_argument("slots", metavar="N", type=arguments.count)
    deployments = _add(
        commands, "deployments", _set_deployments, "set which models an account serves"
    )
    models = deployments.add_mutually_exclusive_group(required=True)
    models.add_argument(
        "deployments",
        nargs="*",
        default=[],
        metavar="MODEL=DEPLOYMENT",
        type=arguments.pair,
        help="a model, and its name at the account; the account serves no other model",
    )
    models.add_argument("--all", action="store_true", help="serve every model of the catalogue")


_CODEX_AUTH: Final = "a Codex auth.json, or - for stdin"
_API_KEY_FILE: Final = "a file with the API key, or - for stdin"
_FAILS_FREE: Final = (
    "the upstream bills nothing for an error in OpenAI's shape, as many relays do: another account "
    "is asked after it"
)


def _add(
    commands: "argparse._SubParsersAction[Any]", command: str, handler: Any, purpose: str
) -> argparse.ArgumentParser:
    parser = arguments.add_command(commands, command, handler, purpose)
    parser.add_argument("name", metavar="NAME", type=arguments.name)
    return parser


def _add_add(commands: "argparse._SubParsersAction[Any]") -> None:
    add = _add(commands, "add", _add_account, "add an account")
    dialects = add.add_mutually_exclusive_group(required=True)
    dialects.add_argument("--codex-auth", metavar="FILE", help=f"a Codex account: {_CODEX_AUTH}")
    dialects.add_argument("--azure", action="store_true", help="an Azure OpenAI resource")
    dialects.add_argument("--openai", action="store_true", help="OpenAI or a compatible API")
    add.add_argument("--api-key-file", metavar="FILE", help=_API_KEY_FILE)
    add.add_argument("--base-url", type=arguments.name, metavar="URL", help="where calls go")
    add.add_argument(
        "--api-version", type=arguments.name, help="Azure: use the older path, with this version"
    )
    add.add_argument(
        "--deployment",
        nargs="+",
        action="extend",
        type=arguments.pair,
        metavar="MODEL=DEPLOYMENT",
        help="a model, and its name at the account; the account serves no other model",
    )
    add.add_argument(
        "--responses-model",
        type=arguments.name,
        help="the main model of Responses calls; without it the account serves none",
    )
    add.add_argument(
        "--codex-route", choices=("direct", "responses"), help="Codex: the path of image calls"
    )
    add.add_argument(
        "--proxy", type=arguments.name, metavar="URL", help="a proxy: http, https, socks5(h)"
    )
    add.add_argument("--fails-free", action=argparse.BooleanOptionalAction, help=_FAILS_FREE)
    add.add_argument("--slots", type=arguments.count, metavar="N", help="most calls at a time")
    add.add_argument(
        "--weight", type=_number, metavar="W", help="share of calls among accounts; usually 1"
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a number") from None


# -- handlers --------------------------------------------------------------------------------------


def _add_account(admin: AdminConnection, args: argparse.Namespace) -> None:
    dialect = DIALECTS["azure" if args.azure else "openai" if args.openai else "codex"]
    _check_options(dialect, args)
    if args.codex_route == "responses" and args.responses_model is None:
        raise UsageError("--codex-route responses needs --responses-model")
    _check_main_model(args.responses_model)
    row = {
        "account_name": args.name,
        "dialect": dialect.name,
        "status": "active",
        "image_enabled": True,
        "image_max_concurrency": args.slots,
        "base_url": args.base_url,
        "api_version": args.api_version,
        "deployments": dict(args.deployment) if args.deployment else None,
        "credential": None,
        "responses_model": args.responses_model,
        "codex_route": args.codex_route,
        "proxy_url": args.proxy,
        "routing_weight": args.weight,
        "fails_free": args.fails_free,
    }
    account_from_row(row)  # before stdin is read, which may be a person
    row["credential"] = _credential(args, row)
    added = OwnTables(admin).add_account(row)
    _warn_of_base(added)
    _show_row(args, added)


def _check_options(dialect: Dialect, args: argparse.Namespace) -> None:
    """Raise ``UsageError`` for an option that the dialect does not use, or needs and lacks."""
    options = {
        "api_version": args.api_version,
        "base_url": args.base_url,
        "responses_model": args.responses_model,
        "codex_route": args.codex_route,
    }
    for column in sorted(dialect.unused):
        if options[column] is not None:
            raise UsageError(f"{_option(column)} does not apply to {dialect.described}")
    if "api_key" not in dialect.credentials and args.api_key_file is not None:
        raise UsageError(f"--api-key-file does not apply to {dialect.described}")
    for column in dialect.needed:
        if options[column] is None:
            raise UsageError(f"{dialect.described} needs {_option(column)}")
    if "api_key" in dialect.credentials and args.api_key_file is None:
        raise UsageError(f"{dialect.described} needs --api-key-file")


def _update(admin: AdminConnection, args: argparse.Namespace) -> None:
    changes: TableRow = {}
    _check_main_model(args.responses_model)
    for column, text in (
        ("base_url", args.base_url),
        ("responses_model", args.responses_model),
    ):
        if text is not None:
            changes[column] = None if text == "none" else text
    if args.fails_free is not None:
        changes["fails_free"] = args.fails_free
    if not changes:
        raise UsageError(
            "nothing to change: give --base-url, --responses-model, --fails-free or --no-fails-free"
        )

    def change(row: TableRow) -> TableRow:
        changed = {**row, **changes}
        account_from_row(changed)
        return changed

    row = OwnTables(admin).change_account(args.name, change)
    _warn_of_base(row)
    _show_row(args, row)


def _check_main_model(name: str | None) -> None:
    if name is not None and is_image_model(name):
        raise UsageError(
            f"--responses-model {escaped(name)} is an image model; the main model is a text model, "
            "such as gpt-5.5, that calls the image tool"
        )


def _warn_of_base(row: TableRow) -> None:
    """Warn without showing the URL, which may hold a key."""
    base = row["base_url"]
    if row["dialect"] == "openai" and base is not None:
        path = urlsplit(base).path
        if not path.rstrip("/").endswith("/v1"):
            complain(_NOT_V1)


def _remove(admin: AdminConnection, args: argparse.Namespace) -> None:
    row = OwnTables(admin).remove_account(args.name)
    output.show(args, _public(row), f"removed account {cell(row['account_name'])}")


def _set_credential(admin: AdminConnection, args: argparse.Namespace) -> None:
    def change(row: TableRow) -> TableRow:
        return {**row, "credential": credential}

    row = OwnTables(admin).account(args.name)
    dialect = DIALECTS[row["dialect"]]
    takes_api_key = "api_key" in dialect.credentials
    if (args.api_key_file is not None) != takes_api_key:
        needed = "--api-key-file" if takes_api_key else "--codex-auth"
        raise UsageError(f"{dialect.described} needs {needed}")
    credential = _credential(args, row)
    _show_row(args, OwnTables(admin).change_account(args.name, change))


def _set_status(status: str) -> Callable[[AdminConnection, argparse.Namespace], None]:
    def handler(admin: AdminConnection, args: argparse.Namespace) -> None:
        _change(admin, args, {"status": status})

    return handler


def _set_images(admin: AdminConnection, args: argparse.Namespace) -> None:
    _change(admin, args, {"image_enabled": arguments.SWITCH[args.switch]})


def _set_slots(admin: AdminConnection, args: argparse.Namespace) -> None:
    _change(admin, args, {"image_max_concurrency": args.slots})


def _set_deployments(admin: AdminConnection, args: argparse.Namespace) -> None:
    _change(admin, args, {"deployments": None if args.all else dict(args.deployments)})


def _change(admin: AdminConnection, args: argparse.Namespace, changes: TableRow) -> None:
    def change(row: TableRow) -> TableRow:
        changed = {**row, **changes}
        row_checks.refuse_new(account_from_row, row, changed)
        return changed

    _show_row(args, OwnTables(admin).change_account(args.name, change))


# -- secrets ---------------------------------------------------------------------------------------


def _credential(args: argparse.Namespace, row: TableRow) -> TableRow:
    """The credential in a file, as it is stored: only what signs a call.

    Raises ``UsageError``, and ``RowError`` for characters that are not allowed in a header.
    """
    source = args.codex_auth if args.codex_auth is not None else args.api_key_file
    text = _read(source)
    if "api_key" in DIALECTS[row["dialect"]].credentials:
        if not text.strip():
            raise UsageError(f"{source} holds no API key")
        account_from_row({**row, "credential": {"api_key": text.strip()}})
        return {"api_key": text.strip()}
    try:
        auth = orjson.loads(text)
    except orjson.JSONDecodeError:
        auth = None
    if not isinstance(auth, dict):
        raise UsageError(f"{source} is not a Codex auth.json: it does not hold a JSON object")
    credential = account_from_row({**row, "credential": auth}).credential
    if credential is None or credential.kind != "access_token":
        raise UsageError(
            f"{source} holds no access token. Log in to Codex with ChatGPT; for an API key use "
            "--openai with --api-key-file"
        )
    expires_at = credential.expires_at
    if expires_at is not None and expires_at <= datetime.now(UTC).timestamp():
        complain("the access token has expired: the account serves no call until it is replaced")
    return {
        "access_token": credential.token.reveal(),
        **({} if credential.account_id is None else {"account_id": credential.account_id}),
        **({"is_fedramp": True} if credential.is_fedramp else {}),
    }


def _read(source: str) -> str:
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{source} is not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from None


# -- output ----------------------------------------------------------------------------------------


def _list(admin: AdminConnection, args: argparse.Namespace) -> None:
    rows = [_public(row) for row in OwnTables(admin).list_accounts()]
    cells = [
        [
            cell(row["account_name"]),
            cell(row["dialect"]),
            cell(row["status"]),
            cell(row["image_enabled"]),
            cell(row["image_max_concurrency"] or DEFAULT_SLOTS),
            _credential_text(row),
            cell(row["problem"]),
        ]
        for row in rows
    ]
    heads = ("account", "dialect", "status", "images", "slots", "credential", "problem")
    output.show(args, rows, output.listed(heads, cells))


def _show(admin: AdminConnection, args: argparse.Namespace) -> None:
    _show_row(args, OwnTables(admin).account(args.name))


def _show_row(args: argparse.Namespace, row: TableRow) -> None:
    values = _public(row)
    output.show(args, values, output.fields({**values, "credential": _credential_text(values)}))


def _public(row: TableRow) -> TableRow:
    """An account's columns without secrets, and the problem of its row.

    The URLs of a row that breaks the contract may hold a password, so they are left out; a query
    may hold a key, so it is shown as ``?...``.
    """
    problem = row_checks.problem(account_from_row, row)
    addresses = {
        column: None if problem or row[column] is None else _without_query(row[column])
        for column in ("base_url", "proxy_url")
    }
    return {
        **{column: row[column] for column in _PUBLIC_COLUMNS},
        **addresses,
        "credential": None if problem else _public_credential(account_from_row(row).credential),
        "problem": problem,
    }


def _without_query(address: str) -> str:
    parts = urlsplit(address)
    bare = urlunsplit(parts._replace(query="", fragment=""))
    return f"{bare}?..." if parts.query or parts.fragment else bare


def _public_credential(credential: Credential | None) -> TableRow | None:
    if credential is None:
        return None
    expires_at = credential.expires_at
    return {
        "kind": credential.kind,
        "expires_at": None if expires_at is None else _moment(expires_at),
    }


def _moment(seconds: float) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):  # a token may say anything
        return None


def _credential_text(row: TableRow) -> str:
    credential = row["credential"]
    if credential is None:
        return "-"
    until = credential["expires_at"]
    return credential["kind"] if until is None else f"{credential['kind']} until {until}"


def _option(column: str) -> str:
    return f"--{column.replace('_', '-')}"
