"""Run the image gateway, check its settings, or use its control plane and logs.

This is the command line; the line above is its description in ``--help``.  Errors go to stderr,
one line each.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NoReturn

import uvloop

from image_gateway import __version__, app, config, sql
from image_gateway.cli import control, descriptor_room, keep_dir, lock_room, logs
from image_gateway.cli.environment import read
from image_gateway.cli.exits import BAD_SETTINGS, CONTROL_PLANE_UNUSABLE, FAILED, OK
from image_gateway.cli.output import complain, escaped, say
from image_gateway.core.encrypted import Keyring
from image_gateway.core.model import Account
from image_gateway.core.request.catalogue import Catalogue
from image_gateway.core.routing import offers, retirement
from image_gateway.core.routing.retirement import NamedByKeys
from image_gateway.edge.postgres import contract
from image_gateway.edge.postgres.cache import UnavailableError
from image_gateway.edge.postgres.contract import ContractError, Findings
from image_gateway.edge.records import writer

_SWITCH_SECONDS: Final = 0.0002
"""How long a thread waits for the event loop before it asks for its turn.  With Python's default of
5 ms the threads, and each call that waits for the disk, get none while many short steps keep the
loop busy: a small call took 1.4 s, with this 0.02."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    args = parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = args.run
    return run(args)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line, with all commands."""
    root = _Parser(prog="image-gateway", description=__doc__.partition("\n")[0])
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("serve", help="run the gateway").set_defaults(run=_serve)
    commands.add_parser(
        "check", help="check settings, KEEP_DIR, contract, role and accounts"
    ).set_defaults(run=_check)
    schema = commands.add_parser("schema", help="print SQL for the control plane's database")
    schema.add_argument("name", choices=sql.SCHEMAS)
    schema.add_argument(
        "plane", nargs="?", choices=sql.PLANES, help="for charger: whose calls it charges"
    )
    schema.set_defaults(run=_schema)
    demo = commands.add_parser(
        "demo", help="run a demo with an embedded Postgres and a sample upstream"
    )
    demo.add_argument("--once", action="store_true", help="exit after the sample calls")
    demo.set_defaults(run=_demo)
    control.add_command(commands)
    logs.add_command(commands)
    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    return root


class _Parser(argparse.ArgumentParser):
    """Wrong usage exits with 64, as wrong settings do, not with argparse's 2."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(BAD_SETTINGS, f"{self.prog}: {message}\n")


def _settings() -> config.Settings | None:
    try:
        return config.parse(os.environ, read)
    except config.SettingsError as error:
        for mistake in error.mistakes:
            complain(mistake)
        return None


def _serve(_: argparse.Namespace) -> int:
    settings = _settings()
    if settings is None:
        return BAD_SETTINGS
    writer.configure_process_log()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(app.serve(settings))
    except config.SettingsError as error:
        complain(str(error))
        return BAD_SETTINGS
    except app.StartError as error:
        complain(str(error))
        return FAILED
    except ContractError as error:
        complain(str(error))
        return CONTROL_PLANE_UNUSABLE
    except UnavailableError as error:
        complain(f"the control plane cannot be reached: {error}")
        return CONTROL_PLANE_UNUSABLE
    return OK


def _check(_: argparse.Namespace) -> int:
    settings = _settings()
    if settings is None:
        return BAD_SETTINGS
    say("ok: settings")
    _warn_of_open_key(settings)
    can_keep = keep_dir.check(settings)
    try:
        findings, is_pooled = asyncio.run(_ask_control_plane(settings))
    except (ContractError, UnavailableError) as error:
        complain(f"the control plane cannot be used: {error}")
        return CONTROL_PLANE_UNUSABLE
    say(f"ok: the control plane provides contract version {findings.version}")
    if findings.version < contract.CONTRACT_VERSION:
        say(
            f"warning: contract version {contract.CONTRACT_VERSION} adds expiry, owners and quotas "
            "in pictures and money. For a control plane that this gateway knows, run its "
            "`image-gateway schema NAME` again"
        )
    for warning in findings.warnings:
        say(f"warning: {escaped(warning)}")
    for finding in findings.writable:
        say(
            f"warning: the role can write: {finding}. `image-gateway schema reader` prints SQL "
            "for a role that cannot"
        )
    if not findings.writable:
        say("ok: the role can only read")
    for finding in findings.broken_accounts:
        say(f"warning: left out of service: {finding}")
    for finding in findings.doubtful_accounts:
        say(f"warning: {finding}")
    for finding in findings.idle_accounts:
        say(f"warning: {finding}")
    model, catalogue = settings.default_model, app.load_catalogue(settings)
    sound = findings.sound_accounts
    if sound and not any(offers.serves(account, model, catalogue) for account in sound):
        say(
            f"warning: no account serves DEFAULT_MODEL {escaped(model)}: calls that name no model "
            "get 404"
        )
    _warn_of_shutdowns(settings, catalogue, sound)
    usable = findings.accounts - len(findings.broken_accounts) - len(findings.idle_accounts)
    say(f"{'ok' if usable else 'warning'}: {usable} of {findings.accounts} accounts are usable")
    if is_pooled:
        complain(contract.POOLED)
        return BAD_SETTINGS
    say("ok: DIRECT_DATABASE_URL does not lead through a transaction pooler")
    lock_room.check(settings)
    descriptor_room.check(settings)
    return OK if can_keep else FAILED


def _warn_of_open_key(settings: config.Settings) -> None:
    path = settings.credential_key_file
    systemds = os.environ.get("CREDENTIALS_DIRECTORY")
    # systemd lets one user alone read a credential, by an ACL, which shows as a right of the group.
    if path is None or (systemds is not None and path.is_relative_to(systemds)):
        return
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        say(
            f"warning: CREDENTIAL_KEY_FILE {escaped(str(path))} is open to others than its owner "
            f"(mode {mode:04o}): let the gateway's user own it, and run chmod 600"
        )


def _warn_of_shutdowns(
    settings: config.Settings, catalogue: Catalogue, accounts: Sequence[Account]
) -> None:
    """Warn of models that were or will be shut down, where an account, a key or a setting names
    them.
    """
    retired = [name for name, rules in catalogue.models.items() if rules.shutdown is not None]
    named: list[NamedByKeys] = []
    try:
        named = asyncio.run(contract.models_of_keys(settings.control_database_url, retired))
    except UnavailableError as error:
        say(f"warning: the models that keys name cannot be read: {error}")
    today = datetime.now(UTC).date()
    for warning in retirement.warnings(accounts, named, settings.default_model, catalogue, today):
        say(f"warning: {escaped(warning)}")


async def _ask_control_plane(settings: config.Settings) -> tuple[Findings, bool]:
    keyring = Keyring(settings.credential_key)
    findings = await contract.check(settings.control_database_url, keyring)
    return findings, await contract.is_pooled(settings.direct_database_url)


def _schema(args: argparse.Namespace) -> int:
    if (args.plane is None) == (args.name == "charger"):
        complain(
            "charger needs the name of a control plane: `image-gateway schema charger NAME`"
            if args.plane is None
            else f"{args.name} takes no name of a control plane; only charger does"
        )
        return BAD_SETTINGS
    say(sql.schema(args.name, args.plane).rstrip())
    return OK


def _demo(args: argparse.Namespace) -> int:
    try:
        from image_gateway.demo.show import run  # noqa: PLC0415 - its libraries are an extra
    except ModuleNotFoundError as error:
        complain(
            f"the demo needs {error.name}: run pip install '.[demo]' in the folder of the project"
        )
        return FAILED
    return run(once=args.once)


def _version(_: argparse.Namespace) -> int:
    say(__version__)
    return OK


if __name__ == "__main__":
    sys.exit(main())
