"""Accounts: who makes the pictures, and what signs the calls."""

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
from image_gateway.cli.output import cell, complain
from image_gateway.core.dialects import DIALECTS, Dialect
from image_gateway.core.model import DEFAULT_SLOTS, Credential
from image_gateway.core.rows import account_from_row
from image_gateway.edge.postgres.standalone import Standalone, TableRow

_OPTIONS: Final = {"deployments": "--deployment"}
"""Options that are not called as their column is."""
_NOT_V1: Final = (
    "the base URL's path does not end in /v1, as OpenAI's own does: calls go to it as it stands, "
    "with /images/... behind it"
)
_SHOWN_COLUMNS: Final = (
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
    "blocked_until",
    "created_at",
)


def add_commands(kinds: "argparse._SubParsersAction[Any]") -> None:
    """Put ``account`` on the command line."""
    account = kinds.add_parser("account", help="upstream accounts")
    commands = account.add_subparsers(required=True, metavar="COMMAND")
    _add_add(commands)
    credential = _add(commands, "credential", _set_credential, "renew an account's credential")
    files = credential.add_mutually_exclusive_group(required=True)
    files.add_argument("--codex-auth", metavar="FILE", help=_CODEX_AUTH)
    files.add_argument("--api-key-file", metavar="FILE", help=_API_KEY_FILE)
    arguments.add_command(commands, "list", _list, "all accounts")
    _add(commands, "show", _show, "an account's fields, without its secrets")
    update = _add(commands, "update", _update, "change where an account's calls go")
    update.add_argument(
        "--base-url",
        required=True,
        type=arguments.name,
        metavar="URL|none",
        help="none is the usual one of Codex or OpenAI",
    )
    _add(commands, "remove", _remove, "take an account away")
    _add(commands, "enable", _set_status("active"), "use an account")
    _add(commands, "disable", _set_status("disabled"), "use an account no more")
    images = _add(commands, "images", _set_images, "switch an account's images")
    images.add_argument("switch", choices=arguments.SWITCH)
    slots = _add(commands, "slots", _set_slots, "how many calls an account takes at once")
    slots.add_argument("slots", metavar="N", type=arguments.count)
    deployments = _add(
        commands, "deployments", _set_deployments, "which models an account serves, and as what"
    )
    which = deployments.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "deployments", nargs="*", default=[], metavar="MODEL=DEPLOYMENT", type=arguments.pair
    )
    which.add_argument("--all", action="store_true", help="whatever the catalogue lists")


_CODEX_AUTH: Final = "a Codex auth.json, or - for stdin"
_API_KEY_FILE: Final = "a file with the API key, or - for stdin"


def _add(
    commands: "argparse._SubParsersAction[Any]", word: str, handler: Any, purpose: str
) -> argparse.ArgumentParser:
    made = arguments.add_command(commands, word, handler, purpose)
    made.add_argument("name", metavar="NAME", type=arguments.name)
    return made


def _add_add(commands: "argparse._SubParsersAction[Any]") -> None:
    add = _add(commands, "add", _add_account, "make an account")
    dialects = add.add_mutually_exclusive_group(required=True)
    dialects.add_argument("--codex-auth", metavar="FILE", help=f"a Codex account: {_CODEX_AUTH}")
    dialects.add_argument("--azure", action="store_true", help="an Azure OpenAI resource")
    dialects.add_argument("--openai", action="store_true", help="OpenAI, or what speaks like it")
    add.add_argument("--api-key-file", metavar="FILE", help=_API_KEY_FILE)
    add.add_argument("--base-url", type=arguments.name, metavar="URL")
    add.add_argument("--api-version", type=arguments.name, help="Azure: the older path")
    add.add_argument(
        "--deployment",
        nargs="+",
        action="extend",
        type=arguments.pair,
        metavar="MODEL=DEPLOYMENT",
        help="what the account calls a model; it serves no other",
    )
    add.add_argument("--responses-model", type=arguments.name, help="Codex: the main model")
    add.add_argument("--codex-route", choices=("direct", "responses"))
    add.add_argument("--proxy", type=arguments.name, metavar="URL", help="http, https, socks5(h)")
    add.add_argument("--slots", type=arguments.count, metavar="N", help="calls at once")
    add.add_argument("--weight", type=_number, metavar="W", help="share of calls; 1 is usual")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a number") from None


# -- acts ------------------------------------------------------------------------------------------


def _add_account(plane: Standalone, args: argparse.Namespace) -> None:
    dialect = DIALECTS["azure" if args.azure else "openai" if args.openai else "codex"]
    _check_options(dialect, args)
    if args.codex_route == "responses" and args.responses_model is None:
        raise UsageError("--codex-route responses needs --responses-model")
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
    }
    account_from_row(row)  # before stdin is read, which may be a person
    row["credential"] = _credential(args, row)
    added = plane.add_account(row)
    _warn_of_base(added)
    _show_row(args, added)


def _check_options(dialect: Dialect, args: argparse.Namespace) -> None:
    """Refuse what means nothing to the dialect, rather than drop it, and what is missing."""
    given = {
        "api_version": args.api_version,
        "base_url": args.base_url,
        "deployments": args.deployment,
        "responses_model": args.responses_model,
        "codex_route": args.codex_route,
    }
    for column in sorted(dialect.unused):
        if given[column] is not None:
            raise UsageError(f"{_option(column)} has no meaning for {dialect.described}")
    if "api_key" not in dialect.credentials and args.api_key_file is not None:
        raise UsageError(f"--api-key-file has no meaning for {dialect.described}")
    for column in dialect.needed:
        if given[column] is None:
            raise UsageError(f"{dialect.described} needs {_option(column)}")
    if "api_key" in dialect.credentials and args.api_key_file is None:
        raise UsageError(f"{dialect.described} needs --api-key-file")


def _update(plane: Standalone, args: argparse.Namespace) -> None:
    def change(row: TableRow) -> TableRow:
        changed = {**row, "base_url": None if args.base_url == "none" else args.base_url}
        account_from_row(changed)
        return changed

    row = plane.change_account(args.name, change)
    _warn_of_base(row)
    _show_row(args, row)


def _warn_of_base(row: TableRow) -> None:
    """The address itself is not told: it may hold a key."""
    base = row["base_url"]
    if row["dialect"] == "openai" and base is not None:
        path = urlsplit(base).path
        if not path.rstrip("/").endswith("/v1"):
            complain(_NOT_V1)


def _remove(plane: Standalone, args: argparse.Namespace) -> None:
    row = plane.remove_account(args.name)
    output.show(args, _public(row), f"account {cell(row['account_name'])} is removed")


def _set_credential(plane: Standalone, args: argparse.Namespace) -> None:
    def change(row: TableRow) -> TableRow:
        return {**row, "credential": credential}

    row = plane.account(args.name)
    dialect = DIALECTS[row["dialect"]]
    takes_api_key = "api_key" in dialect.credentials
    if (args.api_key_file is not None) != takes_api_key:
        needed = "--api-key-file" if takes_api_key else "--codex-auth"
        raise UsageError(f"{dialect.described} needs {needed}")
    credential = _credential(args, row)
    _show_row(args, plane.change_account(args.name, change))


def _set_status(status: str) -> Callable[[Standalone, argparse.Namespace], None]:
    def handler(plane: Standalone, args: argparse.Namespace) -> None:
        _change(plane, args, {"status": status})

    return handler


def _set_images(plane: Standalone, args: argparse.Namespace) -> None:
    _change(plane, args, {"image_enabled": arguments.SWITCH[args.switch]})


def _set_slots(plane: Standalone, args: argparse.Namespace) -> None:
    _change(plane, args, {"image_max_concurrency": args.slots})


def _set_deployments(plane: Standalone, args: argparse.Namespace) -> None:
    _change(plane, args, {"deployments": None if args.all else dict(args.deployments)})


def _change(plane: Standalone, args: argparse.Namespace, changes: TableRow) -> None:
    def change(row: TableRow) -> TableRow:
        changed = {**row, **changes}
        row_checks.refuse_new(account_from_row, row, changed)
        return changed

    _show_row(args, plane.change_account(args.name, change))


# -- secrets ---------------------------------------------------------------------------------------


def _credential(args: argparse.Namespace, row: TableRow) -> TableRow:
    """What a file holds, as it is stored: nothing but what signs a call.

    Raises ``UsageError``, and ``RowError`` for what no header can carry.
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
        raise UsageError(f"{source} is no Codex auth.json: it holds no JSON object")
    found = account_from_row({**row, "credential": auth}).credential
    if found is None or found.kind != "access_token":
        raise UsageError(
            f"{source} holds no access token: log Codex in with ChatGPT. For an API key use "
            "--openai with --api-key-file"
        )
    if found.expires_at is not None and found.expires_at <= datetime.now(UTC).timestamp():
        complain("the access token is past its own exp: the account serves nothing until renewed")
    return {
        "access_token": found.token.reveal(),
        **({} if found.account_id is None else {"account_id": found.account_id}),
        **({"is_fedramp": True} if found.is_fedramp else {}),
    }


def _read(source: str) -> str:
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{source} is no text in UTF-8") from None
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from None


# -- how accounts are told -------------------------------------------------------------------------


def _list(plane: Standalone, args: argparse.Namespace) -> None:
    rows = [_public(row) for row in plane.list_accounts()]
    shown = [
        [
            cell(row["account_name"]),
            cell(row["dialect"]),
            cell(row["status"]),
            cell(row["image_enabled"]),
            cell(row["image_max_concurrency"] or DEFAULT_SLOTS),
            _credential_word(row),
            cell(row["problem"]),
        ]
        for row in rows
    ]
    heads = ("account", "dialect", "status", "images", "slots", "credential", "problem")
    output.show(args, rows, output.listed(heads, shown))


def _show(plane: Standalone, args: argparse.Namespace) -> None:
    _show_row(args, plane.account(args.name))


def _show_row(args: argparse.Namespace, row: TableRow) -> None:
    shown = _public(row)
    output.show(args, shown, output.fields({**shown, "credential": _credential_word(shown)}))


def _public(row: TableRow) -> TableRow:
    """An account's columns without a secret, and what is wrong with it.

    Where a row breaks the contract its addresses may hold a password, so they are not told; and a
    query may hold a key, so of one only its ``?`` is.
    """
    problem = row_checks.problem(account_from_row, row)
    addresses = {
        column: None if problem or row[column] is None else _without_query(row[column])
        for column in ("base_url", "proxy_url")
    }
    return {
        **{column: row[column] for column in _SHOWN_COLUMNS},
        **addresses,
        "credential": None if problem else _credential_shown(account_from_row(row).credential),
        "problem": problem,
    }


def _without_query(address: str) -> str:
    parts = urlsplit(address)
    bare = urlunsplit(parts._replace(query="", fragment=""))
    return f"{bare}?..." if parts.query or parts.fragment else bare


def _credential_shown(credential: Credential | None) -> TableRow | None:
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


def _credential_word(row: TableRow) -> str:
    credential = row["credential"]
    if credential is None:
        return "-"
    until = credential["expires_at"]
    return credential["kind"] if until is None else f"{credential['kind']} until {until}"


def _option(column: str) -> str:
    return _OPTIONS.get(column, f"--{column.replace('_', '-')}")
