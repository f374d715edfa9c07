"""The command line: what a person types, what it says, how it ends."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cryptography.fernet import Fernet

from image_gateway import __version__
from tests.edge.kept.parts import NOW, Clock, identity, keep, opened
from tests.parts.gateway import free_port
from tests.parts.llm_access import TABLES, LlmAccess
from tests.parts.pgbouncer import pgbouncer
from tests.parts.plane import Plane

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def command(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run ``image-gateway WORDS`` with these settings only."""
    environment = {name: value for name, value in os.environ.items() if "IMAGE_GATEWAY" not in name}
    environment |= {f"IMAGE_GATEWAY_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "image_gateway", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_version_prints_the_version() -> None:
    done = command("version")
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


def test_wrong_usage_exits_with_64() -> None:
    done = command("sreve")
    assert done.returncode == 64
    assert "serve" in done.stderr


@pytest.mark.parametrize("name", ["standalone", "reader"])
def test_schema_prints_sql_that_may_be_run_twice(postgres_url: str, name: str) -> None:
    plane = Plane(postgres_url)
    plane.create(command("schema", "standalone").stdout)
    done = command("schema", name)
    assert done.returncode == 0
    plane.execute(done.stdout)
    plane.execute(done.stdout)
    plane.drop()


def test_schema_prints_the_llm_access_adapter(postgres_url: str) -> None:
    """With its optional triggers and the reader's role, each of which may be run twice."""
    llm = LlmAccess(postgres_url)
    llm.create(TABLES)
    for name in ("llm_access", "llm_access_notify", "reader"):
        done = command("schema", name)
        assert done.returncode == 0
        llm.execute(done.stdout)
        llm.execute(done.stdout)
    llm.add_codex("one")
    checked = command("check", control_database_url=llm.reader_url)
    assert checked.returncode == 0, checked.stderr
    assert "ok: the role can only read" in checked.stdout
    assert "ok: 1 of 1 accounts are usable" in checked.stdout
    llm.drop()


def test_check_is_content_with_the_reader_and_the_standalone_schema(plane: Plane) -> None:
    plane.add_account("one", None)
    done = command("check", control_database_url=plane.reader_url)
    assert done.returncode == 0, done.stderr
    assert "ok: the control plane provides contract version 2" in done.stdout
    assert "ok: the role can only read" in done.stdout
    assert "ok: 1 of 1 accounts are usable" in done.stdout
    assert "warning" not in done.stdout


def test_check_tells_of_a_role_that_could_write_and_of_broken_accounts(plane: Plane) -> None:
    plane.add_account("odd", "https://user:hush@example.com")
    plane.add_account("east", "https://east.openai.azure.com.example", dialect="azure")
    plane.add_account("west", "https://west.openai.azure.com", dialect="azure")
    done = command("check", control_database_url=plane.url)
    assert done.returncode == 0
    assert "warning: the role can write: it is a superuser" in done.stdout
    assert "image-gateway schema reader" in done.stdout
    assert "warning: left out of service: account odd: base_url" in done.stdout
    assert "hush" not in done.stdout
    assert "warning: account east: base_url is not an Azure host" in done.stdout
    assert "account west" not in done.stdout


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A key of Fernet, for its owner alone."""
    path = tmp_path / "encryption.key"
    path.touch(0o600)
    path.write_bytes(Fernet.generate_key())
    return path


def test_check_names_each_account_whose_secret_does_not_open(plane: Plane, key_file: Path) -> None:
    sealed = Fernet(key_file.read_bytes()).encrypt(b"hush").decode()
    encrypted = {"encrypted": {"scheme": "fernet", "value": sealed}}
    plane.add_account("one", None)
    plane.add_account("token", None, credential=encrypted)
    plane.add_account(
        "proxied", None, proxy_url="http://proxy:1", proxy_password=json.dumps(encrypted)
    )

    def checked(**settings: str) -> str:
        done = command("check", control_database_url=plane.reader_url, **settings)
        assert done.returncode == 0, done.stderr
        assert sealed not in done.stdout
        assert "hush" not in done.stdout
        return done.stdout

    said = checked(credential_key_file=str(key_file))
    assert "ok: 3 of 3 accounts are usable" in said
    assert "warning" not in said

    key_file.write_bytes(Fernet.generate_key())
    said = checked(credential_key_file=str(key_file))
    why = "is encrypted with fernet and does not open with the key in CREDENTIAL_KEY_FILE: "
    assert f"warning: left out of service: account token: credential {why}" in said
    assert f"warning: left out of service: account proxied: proxy_password {why}" in said
    assert "ok: 1 of 3 accounts are usable" in said

    said = checked()
    why = "credential is encrypted with fernet: set the gateway's CREDENTIAL_KEY_FILE to a file"
    assert f"warning: left out of service: account token: {why}" in said
    assert "ok: 1 of 3 accounts are usable" in said


@pytest.mark.parametrize(("mode", "is_open"), [(0o400, False), (0o640, True), (0o602, True)])
def test_check_warns_of_a_key_that_others_may_read_or_change(
    plane: Plane, key_file: Path, mode: int, *, is_open: bool
) -> None:
    plane.add_account("one", None)
    key_file.chmod(mode)
    settings = {"control_database_url": plane.reader_url, "credential_key_file": str(key_file)}
    done = command("check", **settings)
    assert done.returncode == 0, done.stderr
    said = f"CREDENTIAL_KEY_FILE {key_file} is open to others than its owner (mode {mode:04o})"
    assert (f"warning: {said}" in done.stdout) is is_open
    assert ("warning" in done.stdout) is is_open


def test_check_does_not_warn_of_the_mode_of_a_credential_of_systemd(
    plane: Plane, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 254 on its mode is 0440: the group's right is the mask of an ACL for one user."""
    plane.add_account("one", None)
    key_file.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(key_file.parent))
    settings = {"control_database_url": plane.reader_url, "credential_key_file": str(key_file)}
    assert "warning" not in command("check", **settings).stdout


@pytest.mark.parametrize("word", ["check", "serve"])
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/nonexistent/key", "cannot be read: No such file or directory"),
        ("/tmp", "cannot be read: Is a directory"),
        ("/dev/null", "is empty"),
        ("/dev/zero", "cannot be read: File too large"),  # and its end is not waited for
    ],
)
def test_a_key_file_that_holds_no_key_ends_a_start_with_64(word: str, path: str, why: str) -> None:
    done = command(word, control_database_url="postgresql://h/d", credential_key_file=path)
    assert done.returncode == 64
    assert done.stderr == f"image-gateway: IMAGE_GATEWAY_CREDENTIAL_KEY_FILE: {path} {why}\n"


def test_check_of_a_database_without_the_contract_exits_with_69(plane: Plane) -> None:
    plane.execute("DROP SCHEMA image_gateway CASCADE")
    done = command("check", control_database_url=plane.url)
    assert done.returncode == 69
    assert "image-gateway schema standalone" in done.stderr


def test_check_tells_of_each_account_that_serves_no_call(plane: Plane) -> None:
    plane.add_account("off", None, status="disabled")
    plane.add_account("bare", None, credential=None)
    plane.add_account("one", None)
    done = command("check", control_database_url=plane.reader_url)
    assert done.returncode == 0, done.stderr
    assert "warning: account off serves no call: off" in done.stdout
    assert "warning: account bare serves no call: no_credential" in done.stdout
    assert "ok: 1 of 3 accounts are usable" in done.stdout


def test_check_warns_where_no_account_serves_the_default_model(plane: Plane) -> None:
    said = "warning: no account serves DEFAULT_MODEL {}: calls that name no model get 404"

    def checked(model: str) -> str:
        done = command("check", control_database_url=plane.reader_url, default_model=model)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "DEFAULT_MODEL" not in checked("gpt-image-77")  # no account at all is another matter
    plane.add_account("one", None)
    assert said.format("gpt-image-77") in checked("gpt-image-77")
    assert "DEFAULT_MODEL" not in checked("gpt-image-2")
    plane.update("accounts", {"account_name": "one"}, deployments={"gpt-image-77": "mine"})
    assert "DEFAULT_MODEL" not in checked("gpt-image-77")
    assert said.format("gpt-image-2") in checked("gpt-image-2")


def test_check_warns_of_models_that_are_shut_down_where_somebody_names_them(plane: Plane) -> None:
    """It goes by the clock, so only the day and the model are sure."""
    plane.add_account("old", None, dialect="openai", deployments={"gpt-image-1": "gpt-image-1"})
    plane.add_account("mapped", None, dialect="codex", deployments={"gpt-image-1": "gpt-image-2"})
    plane.add_account("open", None, dialect="openai")
    plane.add_account(
        "east",
        "https://east.openai.azure.com",
        dialect="azure",
        deployments={"gpt-image-1-2025-04-23": "my-own"},
    )
    plane.add_key(key_id="one", allowed_models=["gpt-image-2", "openai/gpt-image-1"])
    plane.add_key(key_id="two", model_map={"house": "openai/gpt-image-1"})
    plane.add_key(key_id="off", status="disabled", allowed_models=["gpt-image-1"])
    plane.add_key(
        key_id="moved", allowed_models=["gpt-image-1", "x"], model_map={"gpt-image-1": "x"}
    )
    done = command("check", control_database_url=plane.reader_url, default_model="gpt-image-1")
    assert done.returncode == 0, done.stderr
    shut = "which was shut down on 2026-10-23"
    said = [line for line in done.stdout.splitlines() if "shut down" in line]
    assert sorted(said) == [
        f"warning: DEFAULT_MODEL is gpt-image-1, {shut}",
        f"warning: account east: deployments name gpt-image-1-2025-04-23, {shut}",
        f"warning: account old: deployments name gpt-image-1, {shut}",
        f"warning: key one and 1 other key name openai/gpt-image-1, {shut}",
    ]


def test_check_finds_a_transaction_pooler_and_says_what_to_do(plane: Plane) -> None:
    plane.add_account("one", None)
    with pgbouncer(plane.url) as pooled:
        served = command("serve", control_database_url=pooled)
        assert served.returncode == 64
        assert "DIRECT_DATABASE_URL leads through a transaction pooler" in served.stderr
        done = command("check", control_database_url=pooled)
        assert done.returncode == 64
        assert "DIRECT_DATABASE_URL leads through a transaction pooler" in done.stderr
        assert "IMAGE_GATEWAY_DIRECT_DATABASE_URL to Postgres itself" in done.stderr
        cured = command("check", control_database_url=pooled, direct_database_url=plane.url)
        assert cured.returncode == 0, cured.stderr
        assert "ok: DIRECT_DATABASE_URL does not lead through a transaction pooler" in cured.stdout
        assert "ok: Postgres's lock table holds " in cured.stdout


def test_check_says_what_is_kept_where_and_changes_nothing(plane: Plane, tmp_path: Path) -> None:
    plane.add_account("one", None)
    folder = tmp_path / "state" / "calls"

    def checked(code: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
        urls = {"control_database_url": plane.reader_url, "keep_dir": str(folder)}
        done = command("check", **urls, **{"keep_budget_bytes": "1 KiB", **settings})
        assert done.returncode == code, done.stderr
        return done

    assert re.search(
        rf"^ok: KEEP_DIR {folder} \(\w+ at /.*, .* free\) can be used; it has 0 calls$",
        checked().stdout,
        re.MULTILINE,
    )
    assert not folder.parent.exists()
    assert "ok: KEEP_SECONDS is 0: answers are not kept\n" in checked(keep_seconds="0").stdout
    budget = checked(keep_budget_bytes=f"{2**60} B")
    assert "warning: KEEP_BUDGET_BYTES is 1,048,576.0 TiB, and the file system" in budget.stdout
    assert "warning" not in checked().stdout

    folder.mkdir(parents=True)
    asyncio.run(_keep_one(folder))
    assert "can be used; it has 1 call (0 running, 8.0 KiB)\n" in checked().stdout
    off = checked(keep_seconds="0").stdout
    assert f"and 1 call (0 running, 8.0 KiB) in {folder} are removed at the next start" in off
    assert [path.name for path in (folder / "calls").iterdir()] == [identity().call_id]

    (folder / "mine").touch()
    refused = checked(1)
    assert "has other things in it ('mine')" in refused.stderr
    assert "ok: 1 of 1 accounts are usable" in refused.stdout  # what else there is to say is said
    assert "Nothing is kept, nor removed there" in checked(keep_seconds="0").stdout


async def _keep_one(folder: Path) -> None:
    async with opened(folder, Clock(NOW)) as store:
        await keep(store, identity())


def test_check_of_bad_settings_exits_with_64_and_tells_them_all() -> None:
    done = command("check", max_request_bytes="0", total_seconds="soon")
    assert done.returncode == 64
    assert len(done.stderr.strip().splitlines()) == 3
    assert "CONTROL_DATABASE_URL is missing" in done.stderr


@pytest.fixture
def demo_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder to run the demo in; whatever is left running is ended by its pid."""
    yield tmp_path
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(tmp_path):
                process.kill()
        except psutil.Error:
            pass


def test_the_demo_makes_pictures_and_a_retry_and_leaves_no_process(demo_folder: Path) -> None:
    port = free_port()
    done = subprocess.run(
        [sys.executable, "-m", "image_gateway", "demo", "--once"],
        cwd=demo_folder,
        env={**os.environ, "IMAGE_GATEWAY_BIND": f"127.0.0.1:{port}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    output = demo_folder / "demo-output"
    names = ["generated", "edited", "edited-by-azure", "streamed"]
    names += [*(f"streamed-{number}" for number in range(3)), "retried", "submitted"]
    pictures = [(output / f"{name}.png").read_bytes() for name in names]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert len(set(pictures)) == len(pictures)
    lines = (output / "logs" / "requests.jsonl").read_text("utf-8").splitlines()
    told = ("endpoint", "body_form", "dialect", "stream", "status")
    records = list(map(json.loads, lines))
    assert [tuple(record[name] for name in told) for record in records[:4]] == [
        ("generations", "json", "codex", False, 200),
        ("edits", "json", "codex", False, 200),
        ("edits", "multipart", "azure", False, 200),
        ("generations", "json", "codex", True, 200),
    ]
    # The SDK that gave up: the tries got one call, which its first one started and paid for.
    tries = [record for record in records[4:] if record["call_source"] and record["status"] != 202]
    assert f"the SDK tried {len(tries)} times" in done.stdout
    assert "the upstream was asked for 1 picture\n" in done.stdout
    assert len({record["call_id"] for record in tries}) == 1
    assert [record["call_source"] for record in tries if record["attempts"]] == ["made"]
    [arrived] = [record for record in tries if record["status"] == 200]
    assert f"x-call-source: {arrived['call_source']} (" in done.stdout
    # The call that was submitted: started by one request, asked for by others.
    [submitted] = [record for record in records if record["status"] == 202 and record["attempts"]]
    polls = [record for record in records if record["endpoint"] == "calls"]
    assert f"asked {len(polls)} times: " in done.stdout
    assert {record["call_id"] for record in polls} == {submitted["call_id"]}
    assert "without a key, as image/png\n" in done.stdout
    assert [p.pid for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(demo_folder)] == []
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_stays_up_until_it_is_told_to_stop_and_leaves_no_process(
    demo_folder: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "image_gateway", "demo"],
        cwd=demo_folder,
        env={**os.environ, "IMAGE_GATEWAY_BIND": f"127.0.0.1:{free_port()}"},
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        said = ""
        for line in demo.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        assert "curl " in said
        assert "from openai import OpenAI" in said
        [page] = re.findall(r"http://[\d.:]+/status", said)
        with urllib.request.urlopen(page) as answer:
            assert answer.status == 200
        [database] = re.findall(r"ADMIN_DATABASE_URL='(.*)'", said)
        listed = subprocess.run(
            [sys.executable, "-m", "image_gateway", "control", "key", "list"],
            env={**os.environ, "IMAGE_GATEWAY_ADMIN_DATABASE_URL": database},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "key-demo" in listed.stdout
        demo.send_signal(number)
        assert demo.wait(30) == 0
        assert "stopping everything" in demo.stdout.read()
    assert [p.pid for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(demo_folder)] == []


@pytest.mark.parametrize("bind", ["nonsense", "127.0.0.1", "127.0.0.1:70000"])
def test_the_demo_says_in_one_line_that_an_address_is_not_one(demo_folder: Path, bind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "image_gateway", "demo", "--once"],
        cwd=demo_folder,
        env={**os.environ, "IMAGE_GATEWAY_BIND": bind},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == "demo: IMAGE_GATEWAY_BIND must be HOST:PORT, such as 127.0.0.1:19082\n"


def test_the_demo_says_in_one_line_that_a_port_is_taken(demo_folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "image_gateway", "demo", "--once"],
            cwd=demo_folder,
            env={**os.environ, "IMAGE_GATEWAY_BIND": f"127.0.0.1:{port}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    [line] = done.stderr.strip().splitlines()
    assert str(port) in line
    assert "IMAGE_GATEWAY_BIND" in line
