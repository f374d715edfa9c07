"""``image-gateway control``: what a person types, what is there then, and what a call costs."""

import base64
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_gateway.__main__ import main
from image_gateway.cli import output
from image_gateway.cli.control import usage
from image_gateway.edge.records.reader import RecordFile
from tests.parts.eventually import eventually
from tests.parts.examples import scaled
from tests.parts.gateway import Gateway, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import ScriptedUpstream

PROMPT = json.dumps({"prompt": "a cat"}).encode()


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Control = Callable[..., Done]


@pytest.fixture
def control(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Control:
    """Runs ``image-gateway control LINE WORDS`` over ``plane``; a word may hold spaces."""
    for name in list(os.environ):
        if name.startswith("IMAGE_GATEWAY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("IMAGE_GATEWAY_ADMIN_DATABASE_URL", plane.url)

    def run(line: str, *words: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            code = main(["control", *line.split(" "), *words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run


def ask(plane: Plane, statement: str) -> list[Any]:
    with psycopg.connect(plane.url, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


def whole(plane: Plane) -> list[Any]:
    """Every row there is, to see that nothing changed."""
    tables = ("keys", "groups", "accounts", "charges", "charged_files")
    return [ask(plane, f"SELECT t::text FROM image_control.{each} t ORDER BY 1") for each in tables]


# -- settings and the tables -----------------------------------------------------------------------


def test_without_the_database_it_says_which_setting_to_make(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMAGE_GATEWAY_ADMIN_DATABASE_URL")
    done = control("key", "list")
    assert done.code == 64
    assert "IMAGE_GATEWAY_ADMIN_DATABASE_URL_FILE" in done.err


def test_the_database_may_be_named_by_a_file(
    control: Control, plane: Plane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("IMAGE_GATEWAY_ADMIN_DATABASE_URL")
    (tmp_path / "url").write_text(plane.url)
    monkeypatch.setenv("IMAGE_GATEWAY_ADMIN_DATABASE_URL_FILE", str(tmp_path / "url"))
    assert control("key", "list").code == 0


@pytest.mark.parametrize(
    "url", ["postgresql://me:hush@127.0.0.1:1/db", "postgresql://me:hush@no..host/db"]
)
def test_a_database_that_is_not_reached_is_69_without_the_password(
    control: Control, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("IMAGE_GATEWAY_ADMIN_DATABASE_URL", url)
    done = control("key", "list")
    assert done.code == 69, done.err
    assert "hush" not in done.err


def test_a_database_without_the_tables_is_69_with_the_command_that_makes_them(
    control: Control, plane: Plane
) -> None:
    plane.execute("DROP SCHEMA image_control CASCADE")
    done = control("key", "list")
    assert done.code == 69
    assert "image-gateway schema NAME | psql" in done.err


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_is_made_with_all_that_was_said_and_its_secret_is_shown_once(
    control: Control, plane: Plane
) -> None:
    plane.add_account("one", None)
    plane.add_group("artists", image_enabled=True)
    control("owner", "create", "ada", "--max-concurrency", "9")
    words = "--name my-app --group artists --models gpt-image-2,gpt-image-1 --accounts one"
    limits = "--max-concurrency 2 --min-start-interval-ms 250 --quota 1000 --owner ada"
    more = "--images 50 --images-per-day 5 --usd-per-month 2.50 --expires 2099-01-31"
    options = f"{words} {limits} {more} --json-keepalive-seconds 0 --json"
    made = control("key", "create", "k", *options.split()).json
    secret = made.pop("secret")
    assert secret.startswith("sk-ig-")
    assert len(base64.urlsafe_b64decode(secret.removeprefix("sk-ig-") + "=")) >= 32
    [(stored,)] = ask(plane, "SELECT key_hash FROM image_control.keys")
    assert stored == hashlib.sha256(secret.encode()).hexdigest()
    assert all(secret not in str(table) for table in whole(plane))
    shown = control("key", "show", "k", "--json")
    assert shown.json == made
    assert stored not in shown.out
    made.pop("created_at")
    assert made == {
        "key_id": "k",
        "key_name": "my-app",
        "status": "active",
        "image_enabled": True,
        "group_id": "artists",
        "owner_id": "ada",
        "expires_at": "2099-01-31T00:00:00+00:00",
        "quota_limit": 1000,
        "quota_used": 0,
        "image_limit": 50,
        "images_used": 0,
        "image_limit_day": 5,
        "images_used_day": 0,
        "image_limit_month": None,
        "images_used_month": 0,
        "cost_limit": None,
        "cost_used": 0,
        "cost_limit_day": None,
        "cost_used_day": 0,
        "cost_limit_month": 2.5,
        "cost_used_month": 0,
        "max_concurrency": 2,
        "min_start_interval_ms": 250,
        "json_keepalive_seconds": 0,
        "allowed_models": ["gpt-image-2", "gpt-image-1"],
        "model_map": None,
        "account_names": ["one"],
        "route_strategy": "auto",
    }


def test_every_secret_is_another_one_and_stands_alone_on_the_last_line(control: Control) -> None:
    told = [control("key", "create", name).out.splitlines()[-1] for name in "abc"]
    assert len(set(told)) == 3
    assert all(line.startswith("sk-ig-") and " " not in line for line in told)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_key_gets_a_new_secret_which_is_shown_once_and_nothing_else_changes(
    control: Control, plane: Plane, form: tuple[str, ...]
) -> None:
    old = control("key", "create", "k", "--quota", "9", *form).out
    plane.update("keys", {"key_id": "k"}, quota_used=5)
    known = control("key", "show", "k", "--json").json
    done = control("key", "secret", "k", *form)
    assert done.code == 0, done.err
    [secret] = re.findall(r"sk-ig-[\w-]{43}", done.out)
    assert secret not in old
    assert ask(plane, "SELECT key_hash FROM image_control.keys") == [
        (hashlib.sha256(secret.encode()).hexdigest(),)
    ]
    assert control("key", "show", "k", "--json").json == known
    assert all(secret not in str(table) for table in whole(plane))
    if form:
        assert done.json == {**known, "secret": secret}
    else:
        assert done.out.splitlines()[-1] == secret


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("disable k", {"status": "disabled"}),
    ("enable k", {"status": "active"}),
    ("images k off", {"image_enabled": False}),
    ("images k on", {"image_enabled": True}),
    ("limits k --max-concurrency 3", {"max_concurrency": 3}),
    ("limits k --max-concurrency none --quota 0", {"max_concurrency": None, "quota_limit": 0}),
    ("limits k --min-start-interval-ms 9", {"min_start_interval_ms": 9}),
    (
        "limits k --quota none --min-start-interval-ms none",
        {"quota_limit": None, "min_start_interval_ms": None},
    ),
    (
        "models k a b --map a=x b=y=z",
        {"allowed_models": ["a", "b"], "model_map": {"a": "x", "b": "y=z"}},
    ),
    ("models k --all", {"allowed_models": None}),
    ("models k --no-map", {"model_map": None}),
    ("group k artists", {"group_id": "artists"}),
    ("group k --none", {"group_id": None}),
    ("accounts k two one --fixed", {"account_names": ["two", "one"], "route_strategy": "fixed"}),
    ("accounts k --auto", {"route_strategy": "auto"}),
    ("accounts k --all", {"account_names": None}),
]


def test_each_command_changes_what_it_says_and_nothing_else(control: Control, plane: Plane) -> None:
    plane.add_group("artists", image_enabled=True)
    for name in ("one", "two"):
        plane.add_account(name, None)
    control("key", "create", "k")
    plane.update("keys", {"key_id": "k"}, quota_used=5)
    known = control("key", "show", "k", "--json").json
    for words, changes in CHANGES:
        known |= changes
        assert control("key", *words.split(), "--json").json == known, words
        assert control("key", "show", "k", "--json").json == known, words
    assert control("key", "list", "--json").json == [known]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("key create k", 1, "key k exists already"),
        ("key create new --group nobody", 1, "there is no group nobody"),
        ("key create new --accounts one,nobody", 1, "there is no account nobody"),
        ("key show nobody", 1, "there is no key nobody"),
        ("key disable nobody", 1, "there is no key nobody"),
        ("key secret nobody", 1, "there is no key nobody"),
        (f"key create {'x' * 65}", 64, "more than 64 characters"),
        ("key create a\tb", 64, "white space or a control character"),
        ("key create a\xa0b", 64, "white space or a control character"),
        ("key create a\x1b[2J", 64, "white space or a control character"),
        ("key create a\x9bb", 64, "white space or a control character"),
        ("key create a\u2028b", 64, "white space or a control character"),
        ("key remove nobody", 1, "there is no key nobody"),
        ("key limits nobody --quota 1", 1, "there is no key nobody"),
        ("key group k nobody", 1, "there is no group nobody"),
        ("key accounts k nobody", 1, "there is no account nobody"),
        ("key limits k", 64, "--max-concurrency"),
        ("key models k", 64, "--all"),
        ("key models k a --all", 64, "either"),
        ("key models k --map a=b --no-map", 64, "not allowed"),
        ("key models k --map a", 64, "NAME=VALUE"),
        ("key accounts k", 64, "--fixed"),
        ("key group k", 64, "required"),
        ("key limits k --quota -1", 64, "--quota"),
        ("key limits k --quota 9223372036854775808", 64, "whole number"),
        ("key limits k --max-concurrency 2147483648", 64, "whole number"),
        ("key limits k --max-concurrency ٣", 64, "whole number"),
        ("key images k maybe", 64, "maybe"),
        ("key create \udcff", 64, "UTF-8"),
        ("key create new --models a,,b", 64, "empty"),
        ("group create g", 1, "group g exists already"),
        ("group update nobody --images on", 1, "there is no group nobody"),
        ("group show nobody", 1, "there is no group nobody"),
        ("group remove nobody", 1, "there is no group nobody"),
        ("group update g", 64, "--images"),
        ("account add one --openai --api-key-file -", 1, "account one exists already"),
        ("account show nobody", 1, "there is no account nobody"),
        ("account slots nobody 3", 1, "there is no account nobody"),
        ("account remove nobody", 1, "there is no account nobody"),
        ("account update nobody --base-url none", 1, "there is no account nobody"),
        ("account update one", 64, "--base-url"),
        ("account update one --responses-model gpt-image-2", 64, "is an image model"),
        ("key models k gpt-image-2,gpt-image-1.5", 64, "separate the names with spaces"),
        ("key accounts k one,two", 64, "separate the names with spaces"),
        ("account update one --base-url ftp://x", 64, "base_url"),
        ("account update one --base-url http://u:p@x", 64, "base_url"),
        ("account update one --base-url HTTP://x", 64, "base_url"),
        ("account credential nobody --api-key-file -", 1, "there is no account nobody"),
        ("account slots one 0", 64, "image_max_concurrency"),
        ("account slots one 1025", 64, "image_max_concurrency"),
        ("account deployments one", 64, "required"),
        ("account add new", 64, "required"),
        ("account add new --openai", 64, "--api-key-file"),
        ("account add new --openai --api-key-file /nowhere/key", 64, "cannot be read"),
        ("account add new --openai --api-key-file - --codex-route direct", 64, "--codex-route"),
        ("account add new --openai --api-key-file - --weight 0", 64, "routing_weight"),
        ("account add new --openai --api-key-file - --weight nan", 64, "routing_weight"),
        ("account add new --openai --api-key-file - --slots 2000", 64, "image_max_concurrency"),
        ("account add new --openai --api-key-file - --base-url ftp://x", 64, "base_url"),
        ("account add new --openai --api-key-file - --base-url http://u:p@x", 64, "base_url"),
        ("account add new --openai --api-key-file - --base-url HTTP://x", 64, "base_url"),
        ("account add new --openai --api-key-file - --proxy ssh://x", 64, "proxy_url"),
        ("account add new --azure --api-key-file - --deployment a=b", 64, "--base-url"),
        ("account add new --codex-auth - --api-key-file -", 64, "--api-key-file"),
        ("account add new --codex-auth - --codex-route responses", 64, "--responses-model"),
        ("account credential one --api-key-file -", 64, "--codex-auth"),
        ("account credential one --codex-auth -", 64, "Codex auth.json"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason_and_nothing_is_changed(
    control: Control, plane: Plane, words: str, code: int, said: str
) -> None:
    plane.add_account("one", None)
    plane.add_group("g", image_enabled=False)
    plane.add_key(key_id="k", allowed_models=["a"])
    before = whole(plane)
    done = control(words, stdin="some-key")
    assert (done.code, done.out) == (code, ""), done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert whole(plane) == before


def test_a_key_that_breaks_the_contract_may_still_be_disabled(
    control: Control, plane: Plane
) -> None:
    plane.add_key(key_id="k", model_map={"a": 1})
    assert control("key", "disable", "k", "--json").json["status"] == "disabled"
    assert control("key", "models", "k", "--no-map", "--json").json["model_map"] is None


def test_a_key_of_a_longer_name_than_is_made_now_may_still_be_changed(
    control: Control, plane: Plane
) -> None:
    plane.add_key(key_id="x" * 100)
    assert control("key", "disable", "x" * 100, "--json").json["status"] == "disabled"
    assert control("key", "create", "y" * 64).code == 0


def test_an_owner_whose_id_no_new_one_could_have_may_still_be_changed(
    control: Control, plane: Plane
) -> None:
    odd = "the Ada Lovelace team " + 50 * "a"
    plane.execute(f"INSERT INTO image_control.owners VALUES ('{odd}', 'Ada', 4)")
    assert control("owner", "update", odd, "--max-concurrency", "9").code == 0
    assert control("owner", "show", odd, "--json").json["max_concurrency"] == 9
    assert control("owner", "remove", odd).code == 0
    assert control("owner", "create", odd).code == 64
    assert control("owner", "create", "the Ada").code == 64


def test_a_key_whose_account_is_gone_may_still_be_changed_but_not_given_it_again(
    control: Control, plane: Plane
) -> None:
    plane.add_account("one", None)
    plane.add_key(key_id="k", account_names=["gone"])
    assert control("key disable k --json").json["status"] == "disabled"
    assert control("key accounts k one --json").json["account_names"] == ["one"]
    assert control("key accounts k gone").code == 1


def test_names_are_shown_without_what_a_terminal_would_obey(control: Control, plane: Plane) -> None:
    name = "\x1b[2Jred\x9b31m\u202e"
    for made in (
        ("group", "create", name),
        ("account", "add", name, "--openai", "--api-key-file", "-"),
    ):
        control(*made, stdin="some-key")
    plane.add_key(key_id=name, key_name=name, group_id=name)
    for kind in ("group", "key", "account"):
        for words in (("list",), ("show", name), ("show", f"{name}!"), (name,)):
            for form in ((), ("--json",)):
                done = control(kind, *words, *form)
                assert not set("\x1b\x9b\u202e") & set(done.out + done.err)
                assert r"\x1b[2Jred" in (done.out + done.err).replace("u001b", "x1b")
    assert control("key", "list", "--json").json[0]["key_name"] == name
    for kind in ("key", "group", "account"):
        done = control(kind, "remove", name)
        assert done.code == 0, done.err
        assert not set("\x1b\x9b\u202e") & set(done.out)


def test_the_id_of_a_new_key_may_be_any_other_word(control: Control) -> None:
    for word in ("a-b_c.d:e@f", "schlüssel", "鍵"):
        assert control("key", "create", word, "--json").json["key_id"] == word
    done = control("key", "create", "two words")
    assert done.code == 64
    assert "white space" in done.err


def test_a_key_that_is_removed_is_gone_alone_and_its_charges_stay(
    control: Control, plane: Plane, tmp_path: Path
) -> None:
    plane.add_group("g", image_enabled=True)
    for name in ("k", "other"):
        control("key", "create", name, "--group", "g")
    seal(tmp_path / "logs", 1, record("req_1", "k"))
    apply(control, tmp_path / "logs")
    known = control("key", "show", "k", "--json").json
    removed = control("key", "remove", "k", "--json")
    assert removed.json == known
    assert "key_hash" not in removed.out
    assert [row["key_id"] for row in control("key", "list", "--json").json] == ["other"]
    assert ask(plane, "SELECT key_id FROM image_control.charges") == [("k",)]
    assert control("key", "remove", "k").code == 1


# -- groups ----------------------------------------------------------------------------------------


def test_a_group_makes_no_images_until_it_is_switched_on(control: Control) -> None:
    assert control("group", "create", "g", "--json").json["image_enabled"] is False
    assert control("group", "create", "h", "--images", "--name", "H", "--json").json[
        "image_enabled"
    ]
    changed = control("group", "update", "g", "--images", "on", "--json").json
    assert (changed["image_enabled"], changed["group_name"]) == (True, "")
    changed = control("group", "update", "g", "--name", "G", "--json").json
    assert (changed["image_enabled"], changed["group_name"]) == (True, "G")
    changed = control("group", "update", "g", "--images", "off", "--json").json
    assert (changed["image_enabled"], changed["group_name"]) == (False, "G")


def test_a_group_is_shown_with_its_keys(control: Control) -> None:
    control("group", "create", "g")
    for name, group in (("a", "g"), ("b", "g")):
        control("key", "create", name, "--group", group)
    control("key", "create", "c")
    shown = control("group", "show", "g", "--json").json
    assert [key["key_id"] for key in shown["keys"]] == ["a", "b"]
    assert [(row["group_id"], row["keys"]) for row in control("group", "list", "--json").json] == [
        ("g", 2)
    ]
    table = control("group", "show", "g").out
    assert "a " in table
    assert "c " not in table.split("key ")[1]


def test_a_group_is_not_removed_while_keys_belong_to_it(control: Control, plane: Plane) -> None:
    for group in ("g", "h"):
        control("group", "create", group)
    control("key", "create", "k", "--group", "g")
    before = whole(plane)
    done = control("group", "remove", "g")
    assert (done.code, done.out) == (1, "")
    assert "keys belong to group g" in done.err
    assert whole(plane) == before
    control("key", "group", "k", "--none")
    assert control("group", "remove", "g", "--json").json["group_id"] == "g"
    assert [row["group_id"] for row in control("group", "list", "--json").json] == ["h"]


# -- accounts --------------------------------------------------------------------------------------


def token(expires: int) -> str:
    """A JWT as Codex has one."""
    payload = base64.urlsafe_b64encode(json.dumps({"exp": expires}).encode()).decode().rstrip("=")
    return f"head.{payload}.{secrets.token_urlsafe(8)}"


def codex_auth(access_token: str, **more: Any) -> str:
    """A Codex ``auth.json``."""
    tokens = {
        "id_token": "hush-id",
        "access_token": access_token,
        "refresh_token": "hush-refresh",
        "account_id": "account-7",
    }
    return json.dumps({"OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": "now", **more})


def stored(plane: Plane, column: str) -> Any:
    [(value,)] = ask(plane, f"SELECT {column} FROM image_control.accounts")
    return value


def test_a_codex_account_keeps_of_its_login_only_what_signs_a_call(
    control: Control, plane: Plane, tmp_path: Path
) -> None:
    access = token(4_000_000_000)
    path = tmp_path / "auth.json"
    path.write_text(codex_auth(access))
    words = "--responses-model gpt-main --codex-route responses --proxy socks5h://proxy:1080"
    more = "--base-url https://codex.example/api --slots 5 --weight 2.5"
    added = control(
        "account", "add", "c", "--codex-auth", str(path), *words.split(), *more.split(), "--json"
    )
    assert stored(plane, "credential") == {"access_token": access, "account_id": "account-7"}
    shown = control("account", "show", "c", "--json").json
    assert added.json == shown
    told = {
        "dialect": "codex",
        "status": "active",
        "image_enabled": True,
        "image_max_concurrency": 5,
        "base_url": "https://codex.example/api",
        "responses_model": "gpt-main",
        "codex_route": "responses",
        "proxy_url": "socks5h://proxy:1080",
        "routing_weight": 2.5,
        "credential": {"kind": "access_token", "expires_at": "2096-10-02T07:06:40+00:00"},
        "problem": None,
    }
    assert {name: shown[name] for name in told} == told


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize("words", [("list",), ("show", "c"), ("disable", "c")])
def test_no_command_shows_a_secret_of_an_account(
    control: Control, words: tuple[str, ...], form: tuple[str, ...]
) -> None:
    access = token(4_000_000_000)
    added = control("account", "add", "c", "--codex-auth", "-", *form, stdin=codex_auth(access))
    done = control("account", *words, *form)
    assert done.code == 0
    for secret in (access, "account-7", "hush"):
        assert secret not in added.out + added.err + done.out + done.err
    assert "access_token" in done.out
    assert "2096-10-02" in done.out


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"OPENAI_API_KEY": "hush"}', '{"api_key": "hush"}', codex_auth("hü sh")],
)
def test_what_is_no_codex_login_is_refused_and_not_quoted(
    control: Control, plane: Plane, text: str
) -> None:
    done = control("account", "add", "c", "--codex-auth", "-", stdin=text)
    assert done.code == 64
    assert "hush" not in done.err
    assert "hü" not in done.err
    assert ask(plane, "SELECT FROM image_control.accounts") == []


def test_a_login_that_is_over_is_kept_with_a_warning(control: Control) -> None:
    done = control("account", "add", "c", "--codex-auth", "-", stdin=codex_auth(token(1)))
    assert done.code == 0
    assert "exp" in done.err


def test_azure_and_openai_accounts_take_their_key_from_a_file(
    control: Control, plane: Plane, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("hush\n")
    azure = control(
        "account add a --azure --base-url https://x.openai.azure.com --api-version v1"
        " --deployment gpt-image-2=mine gpt-image-1=other --api-key-file",
        str(tmp_path / "key"),
        "--json",
    ).json
    assert azure["deployments"] == {"gpt-image-2": "mine", "gpt-image-1": "other"}
    assert (azure["dialect"], azure["api_version"]) == ("azure", "v1")
    assert azure["credential"] == {"kind": "api_key", "expires_at": None}
    assert stored(plane, "credential") == {"api_key": "hush"}
    # Without deployments it serves every image model, by the model's own name.
    bare = control(
        "account add b --azure --base-url https://x.openai.azure.com --api-key-file - --json",
        stdin="hush\n",
    ).json
    assert bare["deployments"] is None
    plane.execute("DELETE FROM image_control.accounts")
    openai = control(
        "account add o --openai --base-url https://x/v1 --api-key-file - --json",
        stdin="hush-2\n",
    ).json
    assert (openai["dialect"], openai["base_url"]) == ("openai", "https://x/v1")
    assert openai["deployments"] is None
    assert stored(plane, "credential") == {"api_key": "hush-2"}


@pytest.mark.parametrize("text", ["", " \n", "two\nlines", "kéy"])
def test_what_no_header_can_carry_is_no_key(control: Control, plane: Plane, text: str) -> None:
    done = control("account add o --openai --api-key-file -", stdin=text)
    assert (done.code, ask(plane, "SELECT FROM image_control.accounts")) == (64, [])


def test_each_account_command_changes_what_it_says_and_nothing_else(control: Control) -> None:
    known = control("account add o --openai --api-key-file - --json", stdin="k").json
    changes: list[tuple[str, dict[str, Any]]] = [
        ("disable o", {"status": "disabled"}),
        ("enable o", {"status": "active"}),
        ("images o off", {"image_enabled": False}),
        ("images o on", {"image_enabled": True}),
        ("slots o 1024", {"image_max_concurrency": 1024}),
        ("deployments o a=b c=d=e", {"deployments": {"a": "b", "c": "d=e"}}),
        ("deployments o --all", {"deployments": None}),
        ("update o --base-url https://x.example/v1", {"base_url": "https://x.example/v1"}),
        ("update o --base-url none", {"base_url": None}),
    ]
    for words, change in changes:
        known |= change
        assert control("account", *words.split(), "--json").json == known, words
        assert control("account", "show", "o", "--json").json == known, words


def test_an_account_that_is_removed_is_gone_alone_and_shows_no_secret(
    control: Control, plane: Plane
) -> None:
    for name in ("o", "other"):
        control("account", "add", name, "--openai", "--api-key-file", "-", stdin=f"hush-{name}")
    known = control("account", "show", "o", "--json").json
    removed = control("account", "remove", "o", "--json")
    assert removed.json == known
    assert "hush" not in removed.out + removed.err
    assert ask(plane, "SELECT account_name FROM image_control.accounts") == [("other",)]


def test_the_main_model_and_the_billing_of_an_account_can_be_changed(
    control: Control, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("sk-upstream")
    control("account", "add", "o", "--openai", "--api-key-file", str(key))
    update = ("account", "update", "o")
    changed = control(*update, "--responses-model", "gpt-5.5", "--fails-free", "--json").json
    assert (changed["responses_model"], changed["fails_free"]) == ("gpt-5.5", True)
    changed = control(*update, "--no-fails-free", "--json").json
    assert (changed["responses_model"], changed["fails_free"]) == ("gpt-5.5", False)
    changed = control(*update, "--responses-model", "none", "--json").json
    assert changed["responses_model"] is None


def test_an_azure_account_keeps_a_base_url(control: Control, plane: Plane) -> None:
    control(
        "account add a --azure --base-url https://x.openai.azure.com"
        " --deployment gpt-image-2=mine --api-key-file -",
        stdin="some-key",
    )
    done = control("account", "update", "a", "--base-url", "none")
    assert done.code == 64
    assert "an Azure deployment needs one" in done.err
    assert stored(plane, "base_url") == "https://x.openai.azure.com"


def test_a_broken_base_url_is_cured_and_not_made_another_one(
    control: Control, plane: Plane
) -> None:
    """Of a row that breaks the contract the same breach is no news to the other commands."""
    plane.add_account("odd", "https://user:hush@example.com")
    again = control("account", "update", "odd", "--base-url", "https://user:hush@other.example")
    assert again.code == 64
    assert "hush" not in again.err
    cured = control("account", "update", "odd", "--base-url", "https://example.com", "--json")
    assert (cured.json["base_url"], cured.json["problem"]) == ("https://example.com", None)


@pytest.mark.parametrize(
    ("dialect", "url", "is_warned"),
    [
        ("--openai", "https://x.example", True),
        ("--openai", "https://x.example/v1/images", True),
        ("--openai", "https://x.example/hush?code=hush/v1", True),
        ("--openai", "https://x.example/v1", False),
        ("--openai", "https://x.example/proxy/v1/", False),
        ("--codex-auth", "https://x.example", False),
    ],
)
def test_an_openai_base_url_without_v1_is_taken_with_a_warning(
    control: Control, plane: Plane, dialect: str, url: str, *, is_warned: bool
) -> None:
    kind = [dialect, "-"] if dialect == "--codex-auth" else [dialect, "--api-key-file", "-"]
    secret = codex_auth("token") if dialect == "--codex-auth" else "some-key"
    added = control("account", "add", "o", *kind, "--base-url", url, stdin=secret)
    assert control("account", "update", "o", "--base-url", "none").err == ""
    updated = control("account", "update", "o", "--base-url", url)
    for done in (added, updated):
        assert done.code == 0, done.err
        assert ("/v1" in done.err) is is_warned
        assert "hush" not in done.err
    assert stored(plane, "base_url") == url


def test_a_credential_is_renewed_alone(control: Control, plane: Plane) -> None:
    control("account", "add", "c", "--codex-auth", "-", "--slots", "7", stdin=codex_auth(token(1)))
    access = token(4_000_000_000)
    done = control("account", "credential", "c", "--codex-auth", "-", stdin=codex_auth(access))
    assert done.code == 0
    assert stored(plane, "credential")["access_token"] == access
    assert stored(plane, "image_max_concurrency") == 7


def test_a_broken_account_is_told_with_its_problem_and_may_be_disabled(
    control: Control, plane: Plane
) -> None:
    plane.add_account("odd", "https://user:hush@example.com")
    for form in ((), ("--json",)):
        done = control("account", "list", *form)
        assert "base_url must not contain a user name or password" in done.out
        assert "hush" not in done.out
    assert control("account", "disable", "odd", "--json").json["status"] == "disabled"


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_of_an_address_the_query_is_not_shown_for_it_may_be_a_key(
    control: Control, plane: Plane, form: tuple[str, ...]
) -> None:
    addresses = {
        "base_url": "https://x.example/v1?code=hush",
        "proxy_url": "http://proxy.example:1#hush",
    }
    plane.add_account("one", addresses["base_url"], proxy_url=addresses["proxy_url"])
    for words in (("list",), ("show", "one"), ("disable", "one")):
        done = control("account", *words, *form)
        assert done.code == 0
        assert "hush" not in done.out + done.err
    shown = control("account", "show", "one", "--json").json
    assert shown["base_url"] == "https://x.example/v1?..."
    assert shown["proxy_url"] == "http://proxy.example:1?..."
    assert stored(plane, "base_url") == addresses["base_url"]


def test_a_name_that_is_kept_for_the_planes_own_accounts_is_refused_in_the_planes_words(
    control: Control, plane: Plane, tmp_path: Path
) -> None:
    plane.execute(
        "CREATE FUNCTION image_control.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = 'take no number'; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON image_control.accounts FOR EACH ROW"
        " WHEN (NEW.account_name = '12') EXECUTE FUNCTION image_control.refuse()"
    )
    (tmp_path / "key").write_text("sk-1")
    done = control(f"account add 12 --openai --api-key-file {tmp_path}/key")
    assert (done.code, done.err) == (64, "image-gateway: take no number\n")


def test_an_account_that_is_blocked_for_ever_takes_no_command_away(
    control: Control, plane: Plane
) -> None:
    plane.add_account("one", None)
    plane.update("accounts", {"account_name": "one"}, blocked_until="infinity")
    assert control("account", "show", "one", "--json").json["blocked_until"].startswith("9000-01-0")
    assert control("account", "list").code == 0
    assert control("account", "disable", "one").code == 0


# -- usage -----------------------------------------------------------------------------------------


def record(request_id: str, key_id: str = "a", tokens: int | None = 10, **more: Any) -> str:
    """A line of the log."""
    fields = {
        "time": datetime.now(UTC).isoformat(),
        "request_id": request_id,
        "key_id": key_id,
        "attempts": [{"account_name": "one"}],
        "response_image_count": 1,
        "usage": None if tokens is None else {"total_tokens": tokens},
        **more,
    }
    return json.dumps(fields) + "\n"


def seal(folder: Path, number: int, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"requests-20261121T000000Z-{number:04}.jsonl"
    path.write_text("".join(lines))
    return path


def used(plane: Plane) -> dict[str, int]:
    return dict(ask(plane, "SELECT key_id, quota_used FROM image_control.keys"))


def apply(control: Control, folder: Path) -> Any:
    return control("usage", "apply", "--dir", str(folder), "--json").json


@pytest.fixture
def charged(plane: Plane) -> Plane:
    """A plane with keys to charge."""
    for key_id in "ab":
        plane.add_key(key_id=key_id)
    return plane


def test_the_logs_of_all_instances_are_charged_once_and_told(
    control: Control, charged: Plane, tmp_path: Path
) -> None:
    """The two files have one name; what is told apart is charged to nobody."""
    seal(tmp_path / "blue", 1, record("1", tokens=5), record("2", "b", 7), record("3", tokens=1))
    seal(
        tmp_path / "green",
        1,
        record("4", tokens=9),
        record("5", tokens=None),
        record("6", attempts=[], response_image_count=None, usage=None),
        record("7", "deleted"),
        record("8", time="2020-01-01T00:00:00Z"),
        "half a rec\n",
    )
    (tmp_path / "green" / "requests.jsonl").write_text(record("9", "b", 100))
    told = apply(control, tmp_path)
    assert told == {
        "files": 3,
        "known_files": 0,
        "gone_files": 0,
        "skipped_lines": 1,
        "records": 9,
        "charged": 6,
        "tokens": 122,
        "images": 6,
        "cost": 0,
        "charged_before": 0,
        "without_usage": 1,
        "unknown_key": 1,
        "no_price": 0,
        "too_old": 1,
        "unreadable": 0,
        "failed": 0,
        "keys": [
            {"key_id": "a", "calls": 4, "tokens": 15, "images": 4, "cost": 0, "without_usage": 1},
            {"key_id": "b", "calls": 2, "tokens": 107, "images": 2, "cost": 0, "without_usage": 0},
        ],
    }
    assert used(charged) == {"a": 15, "b": 107}
    again = apply(control, tmp_path)
    assert (again["files"], again["known_files"], again["records"]) == (1, 2, 1)
    assert (again["charged"], again["charged_before"], again["keys"]) == (0, 1, [])
    assert used(charged) == {"a": 15, "b": 107}


def test_the_tokens_of_the_main_model_are_charged_with_those_of_the_pictures(
    control: Control, charged: Plane, tmp_path: Path
) -> None:
    text = {"input_tokens": 900, "output_tokens": 90}
    seal(
        tmp_path,
        1,
        record("1", usage_text={"total_tokens": 990}),
        record("2", "b", tokens=None, response_image_count=0, usage_text=text),
        record("3", schema_version=1),
    )
    told = apply(control, tmp_path)
    assert (told["charged"], told["tokens"], told["without_usage"]) == (3, 2000, 0)
    assert used(charged) == {"a": 1010, "b": 990}


def test_people_are_told_in_words_and_a_table(
    control: Control, charged: Plane, tmp_path: Path
) -> None:
    seal(tmp_path, 1, record("1", tokens=1500, cost_usd=0.25), record("2", tokens=None))
    done = control("usage", "apply", "--dir", str(tmp_path))
    assert done.out.splitlines() == [
        "1 file read, 0 read before",
        "2 records read",
        "2 calls charged, 1,500 tokens, 2 pictures, 0.25 USD",
        "1 call without usage, charged for its pictures alone",
        "",
        "key  calls  tokens  pictures  cost USD  without usage",
        "a        2   1,500         2      0.25              1",
    ]
    assert done.err == ""


def test_a_current_file_is_charged_before_it_is_sealed_and_not_again_after(
    control: Control, charged: Plane, tmp_path: Path
) -> None:
    current = tmp_path / "requests.jsonl"
    current.write_text(record("1") + record("2")[:30])
    assert apply(control, tmp_path)["charged"] == 1
    current.write_text(record("1") + record("2"))
    current.rename(tmp_path / "requests-20261121T000000Z-0001.jsonl")
    current.write_text(record("3"))
    assert apply(control, tmp_path)["charged"] == 2
    assert used(charged)["a"] == 30


def test_a_file_that_was_still_being_copied_is_read_again(
    control: Control, charged: Plane, tmp_path: Path
) -> None:
    lines = [record(str(number)) for number in range(100)]
    path = seal(tmp_path, 1, *lines[:60])
    apply(control, tmp_path)
    path.write_text("".join(lines))
    told = apply(control, tmp_path)
    assert (told["charged"], told["charged_before"]) == (40, 60)


@pytest.mark.parametrize("lines", [3, 200])
def test_a_copy_that_has_its_size_but_not_yet_its_end_is_read_again(
    control: Control, charged: Plane, tmp_path: Path, lines: int
) -> None:
    """Far more than the beginning and the end that identify it, or less."""
    text = "".join(record(str(number), filler="x" * 2000) for number in range(lines))
    path = seal(tmp_path, 1, text)
    early = text[: len(text) // 2].encode()
    path.write_bytes(early + b"\0" * (len(text) - len(early)))
    first = apply(control, tmp_path)
    assert first["skipped_lines"] == 1
    assert apply(control, tmp_path)["known_files"] == 0
    path.write_text(text)
    assert first["charged"] + apply(control, tmp_path)["charged"] == lines
    assert apply(control, tmp_path)["known_files"] == 1


def test_two_files_that_differ_only_at_their_end_are_two(
    control: Control, charged: Plane, tmp_path: Path
) -> None:
    """As a copy does whose last pages are those of another file still."""
    lines = [record(str(number), filler="x" * 2000) for number in range(200)]
    seal(tmp_path, 1, *lines, record("x"))
    assert apply(control, tmp_path)["charged"] == 201
    seal(tmp_path, 1, *lines, record("y"))
    assert apply(control, tmp_path)["charged"] == 1


def test_a_line_that_is_no_record_does_not_keep_its_file_from_being_known(
    control: Control, charged: Plane, tmp_path: Path
) -> None:
    seal(tmp_path, 1, record("1"), "half a rec\n")
    apply(control, tmp_path)
    assert apply(control, tmp_path)["known_files"] == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"time": "2026-11-21T00:00:00+23:59"},
        {"time": "0001-01-01T00:00:00+14:00"},
        {"request_id": "x" * 12_000},
        {"key_id": "x" * 12_000},
    ],
)
def test_one_odd_line_keeps_no_other_from_being_charged(
    control: Control, charged: Plane, tmp_path: Path, odd: dict[str, str]
) -> None:
    seal(
        tmp_path, 1, record("1"), json.dumps({**json.loads(record("2")), **odd}), "\n", record("3")
    )
    told = apply(control, tmp_path)
    assert told["charged"] + told["unreadable"] == 3
    assert told["charged"] >= 2


def test_a_call_at_which_the_plane_fails_keeps_no_other_from_being_charged(
    control: Control, charged: Plane, tmp_path: Path
) -> None:
    """It is told each time, and charged once the plane is repaired."""
    charged.execute(
        "ALTER TABLE image_control.charges ADD CONSTRAINT few CHECK (images < 9 OR key_id <> 'a')"
    )
    odd = record("r1", response_image_count=9), record("r3\033", response_image_count=9)
    seal(tmp_path, 1, odd[0], record("r2", "b"), odd[1])
    for charges in (1, 0):
        done = control("usage", "apply", "--dir", str(tmp_path), "--json")
        assert done.code == 1
        told = json.loads(done.out)
        assert (told["charged"], told["failed"], told["files"]) == (charges, 2, 1)
        assert "call r1 of key a cannot be charged: " in done.err
        assert "call r3\\x1b of key a" in done.err
        assert "failed at 2 calls" in done.err
    charged.execute("ALTER TABLE image_control.charges DROP CONSTRAINT few")
    assert apply(control, tmp_path)["charged"] == 2
    assert apply(control, tmp_path)["known_files"] == 1


def test_calls_that_tell_no_usage_show_with_their_key(
    control: Control, charged: Plane, tmp_path: Path
) -> None:
    """A client that leaves early is not charged, and whose it is can be seen."""
    left: dict[str, Any] = {"response_image_count": None, "client_left": True}
    seal(
        tmp_path,
        1,
        *(record(f"left{n}", tokens=None, may_be_billed=True, **left) for n in range(3)),
        record("4", "b", None, attempts=[{"action": "deliver"}], **left),
        record("5", "b", None, attempts=[{"action": "return"}], **left),
    )
    told = apply(control, tmp_path)
    assert told["without_usage"] == 4
    assert {row["key_id"]: row["without_usage"] for row in told["keys"]} == {"a": 3, "b": 1}


def named(folder: Path, stamp: str, *lines: str) -> Path:
    return seal(folder, 1, *lines).rename(folder / f"requests-{stamp}Z-0001.jsonl")


def test_files_that_were_pruned_before_they_were_charged_are_complained_of_once(
    control: Control, charged: Plane, tmp_path: Path
) -> None:
    """The other instance's files, which are known, do not hide it."""
    named(tmp_path / "green", "20261120T000000", record("green"))
    first = named(tmp_path / "blue", "20261121T000000", record("1"))
    line = ("usage", "apply", "--dir", str(tmp_path))
    assert control(*line).err == ""
    first.unlink()
    named(tmp_path / "blue", "20261123T000000", record("3"))
    named(tmp_path / "blue", "20261124T000000", record("4"))
    done = control(*line)
    assert done.code == 0
    assert f"{tmp_path}/blue/requests-20261123T000000Z-0001.jsonl is the oldest" in done.err
    assert done.err.count("pruned before they were charged") == 1
    assert control(*line).err == ""


def test_a_file_that_follows_what_was_charged_is_no_gap(
    control: Control, charged: Plane, tmp_path: Path
) -> None:
    """All that was sealed is gone, but the next one was charged while it was the current one."""
    first = named(tmp_path, "20261121T000000", record("1"))
    current = tmp_path / "requests.jsonl"
    current.write_text(record("2"))
    apply(control, tmp_path)
    first.unlink()
    current.rename(tmp_path / "requests-20261122T000000Z-0001.jsonl")
    named(tmp_path, "20261123T000000", record("3"))
    done = control("usage", "apply", "--dir", str(tmp_path))
    assert (done.code, done.err) == (0, "")


def test_progress_shows_where_nothing_is_charged(
    control: Control, charged: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused calls may be all there is in a file, or very many in a row."""
    shown: list[int] = []
    monkeypatch.setattr(output.Progress, "show", lambda _, done: shown.append(done))
    refused: dict[str, Any] = {"attempts": [], "usage": None, "response_image_count": None}
    seal(tmp_path, 1, *(record(str(n), **refused) for n in range(50)))
    assert apply(control, tmp_path)["charged"] == 0
    assert len(set(shown)) >= 10


def test_a_file_that_is_pruned_before_it_is_read_counts_as_unread_and_is_told(
    control: Control, charged: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should it come back, from a backup or another machine, it is charged."""
    look = usage._digest

    def look_and_prune(file: RecordFile) -> str | None:
        found = look(file)
        file.path.unlink()
        return found

    seal(tmp_path, 1, record("1"))
    with monkeypatch.context() as pruning:
        pruning.setattr(usage, "_digest", look_and_prune)
        told = apply(control, tmp_path)
    assert (told["files"], told["gone_files"], told["charged"]) == (0, 1, 0)
    (tmp_path / "backup").mkdir()
    seal(tmp_path / "backup", 1, record("1"))
    assert apply(control, tmp_path)["charged"] == 1


def test_another_machines_file_of_the_same_name_and_size_is_another_file(
    control: Control, charged: Plane, tmp_path: Path
) -> None:
    seal(tmp_path, 1, record("1"))
    apply(control, tmp_path)
    seal(tmp_path, 1, record("2"))
    assert apply(control, tmp_path)["charged"] == 1


def test_no_log_files_anywhere_is_told_with_the_folder(control: Control, tmp_path: Path) -> None:
    done = control("usage", "apply", "--dir", str(tmp_path))
    assert done.code == 1
    assert str(tmp_path) in done.err


def test_without_a_folder_the_logs_of_the_settings_are_read(
    control: Control, charged: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(tmp_path / "logs", 1, record("1"))
    monkeypatch.setenv("IMAGE_GATEWAY_LOG_DIR", str(tmp_path / "logs"))
    assert control("usage", "apply", "--json").json["charged"] == 1


FILES = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=20), min_size=1, max_size=4
)


@given(runs=st.lists(FILES, min_size=1, max_size=3))
@settings(max_examples=scaled(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_split_order_and_duplication_charges_each_call_once(
    control: Control, plane: Plane, tmp_path: Path, runs: list[list[list[tuple[int, bool]]]]
) -> None:
    """Each run sees the files of those before it and some more, in two instances' folders."""
    plane.execute(
        "TRUNCATE image_control.keys, image_control.charges, image_control.charged_files CASCADE"
    )
    for key_id in "ab":
        plane.add_key(key_id=key_id)
    logs = tmp_path / secrets.token_hex(8)
    number, charged = 0, 0
    seen: set[int] = set()
    for files in runs:
        for calls in files:
            number += 1
            # A call of the number n is n tokens, of one key; twins are the same call.
            lines = [record(f"r{n}", "ab"[n % 2], n) for n, twin in calls for _ in range(1 + twin)]
            seal(logs / ("blue", "green")[number % 2], number, *lines)
            seen |= {n for n, _ in calls}
        charged += apply(control, logs)["charged"]
    shutil.rmtree(logs)
    assert charged == len(seen)
    assert used(plane) == {key_id: sum(n for n in seen if "ab"[n % 2] == key_id) for key_id in "ab"}


# -- usage: several at once, and ends in the midst -------------------------------------------------


@dataclass
class Held:
    """The row of a key, held so that whoever charges it waits."""

    plane: Plane
    connection: psycopg.Connection[Any]

    def waiting(self) -> list[int]:
        """The server's processes of ``control`` that wait."""
        found = ask(
            self.plane,
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'image-gateway control'"
            " AND datname = current_database() AND wait_event_type = 'Lock'",
        )
        return [pid for (pid,) in found]

    def release(self) -> None:
        self.connection.rollback()


@pytest.fixture
def held(charged: Plane) -> Iterator[Held]:
    with psycopg.connect(charged.url) as connection:
        connection.execute("SELECT FROM image_control.keys WHERE key_id = 'b' FOR UPDATE")
        yield Held(charged, connection)


@pytest.fixture
def start_apply(plane: Plane, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts ``usage apply`` as a process; those still running are killed at the end."""
    started = []

    def start() -> subprocess.Popen[str]:
        apply = [sys.executable, "-m", "image_gateway", "control", "usage", "apply", "--json"]
        process = subprocess.Popen(
            # A shell's background jobs, and so these tests in one, ignore SIGINT.
            ["/usr/bin/env", "--default-signal=INT", *apply],
            env={
                **os.environ,
                "IMAGE_GATEWAY_ADMIN_DATABASE_URL": plane.url,
                "IMAGE_GATEWAY_LOG_DIR": str(tmp_path / "logs"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def test_two_at_the_same_time_charge_each_call_once(
    held: Held, charged: Plane, tmp_path: Path, start_apply: Callable[[], subprocess.Popen[str]]
) -> None:
    """Both have charged calls of their own when they come to those that both want to charge."""
    lines = [record(f"a{number}") for number in range(500)]
    seal(tmp_path / "logs", 1, *lines, *(record(f"b{number}", "b") for number in range(300)))
    both = [start_apply(), start_apply()]
    await eventually(lambda: len(held.waiting()) == 2)
    held.release()
    told = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(each["charged"] for each in told) == 800
    assert sum(each["tokens"] for each in told) == 8000
    assert used(charged) == {"a": 5000, "b": 3000}


@pytest.mark.parametrize("end", ["by the server", "by a signal", "by hand"])
async def test_a_run_that_ends_in_the_midst_is_finished_by_the_next_one(
    held: Held,
    charged: Plane,
    control: Control,
    tmp_path: Path,
    start_apply: Callable[[], subprocess.Popen[str]],
    end: str,
) -> None:
    lines = [record(f"a{number}") for number in range(300)]
    seal(tmp_path / "logs", 1, *lines, *(record(f"b{number}", "b") for number in range(200)))
    run = start_apply()
    [pid] = await eventually(held.waiting)
    if end == "by the server":
        ask(charged, f"SELECT pg_terminate_backend({pid})")
    else:
        run.send_signal(signal.SIGKILL if end == "by a signal" else signal.SIGINT)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == {"by the server": 69, "by a signal": -9, "by hand": 130}[end], said
    assert "Traceback" not in said
    held.release()
    await eventually(lambda: not held.waiting())
    # Postgres may finish the call that was under way, although nobody hears of it.
    left = 200 - used(charged)["b"] // 10
    assert left in {199, 200}
    told = apply(control, tmp_path / "logs")
    assert (told["charged"], told["charged_before"], told["known_files"]) == (left, 500 - left, 0)
    assert used(charged) == {"a": 3000, "b": 2000}


# -- the daemon ------------------------------------------------------------------------------------


async def test_a_daemon_serves_what_control_made_and_hears_of_what_it_disabled_used_or_removed(
    control: Control,
    plane: Plane,
    make_gateway: Callable[..., Gateway],
    upstream: ScriptedUpstream,
) -> None:
    """It hears of each change: its own memory would last for ten minutes."""
    gateway = make_gateway(plane.reader_url, grant_ttl_seconds=600)
    auth = codex_auth("token-1")
    account = ("account", "add", "one", "--base-url", upstream.url, "--codex-auth", "-")
    assert control(*account, stdin=auth).code == 0
    assert control("group", "create", "artists").code == 0
    made = control("key create k --group artists --quota 24 --json").json
    gateway.start()

    async def answer() -> tuple[int, str | None]:
        status, _, body = parse(await gateway.raw(post(made["secret"], PROMPT)))
        return status, json.loads(body).get("error", {}).get("code")

    async def until(status: int, code: str | None = None) -> None:
        last: object = None

        async def is_answered() -> bool:
            nonlocal last
            last = await answer()
            return last == (status, code)

        await eventually(is_answered, log=lambda: repr(last))

    assert await answer() == (403, "group_image_generation_disabled")
    control("group", "update", "artists", "--images", "on")
    await until(200)
    control("key", "disable", "k")
    await until(403, "key_disabled")
    control("key", "enable", "k")
    await until(200)
    renewed = control("key", "secret", "k", "--json").json
    await until(401, "invalid_api_key")
    made["secret"] = renewed["secret"]
    await until(200)
    made_pictures = len(upstream.calls)
    assert made_pictures >= 2
    await eventually(
        lambda: sum(r["usage"] is not None for r in gateway.records()) == made_pictures
    )
    told = apply(control, gateway.folder / "logs")
    assert told["keys"] == [
        {
            "key_id": "k",
            "calls": made_pictures,
            "tokens": 12 * made_pictures,
            "images": made_pictures,
            "cost": 0,
            "without_usage": 0,
        }
    ]
    await until(429, "insufficient_quota")
    control("key", "limits", "k", "--quota", "none")
    await until(200)
    control("account", "update", "one", "--base-url", "http://127.0.0.1:1")
    await until(502, "upstream_unreachable")
    control("account", "remove", "one")
    await until(503, "no_account_available")
    control("key", "remove", "k")
    await until(401, "invalid_api_key")
