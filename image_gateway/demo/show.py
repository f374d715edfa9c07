"""The demo: start everything, make pictures, edit them, show records, a retry and a late answer."""

import asyncio
import base64
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import psycopg
from aiohttp import web
from openai import APIError, AsyncOpenAI
from psycopg.types.json import Jsonb

from image_gateway.config import PREFIX
from image_gateway.demo import calls, postgres, sample_upstream
from image_gateway.demo.calls import MODEL
from image_gateway.demo.output import OUTPUT, DemoError, save, say
from image_gateway.demo.sample_upstream import SampleUpstream
from image_gateway.setting_values import parse_address

_GATEWAY_LOG: Final = OUTPUT / "gateway.log"
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 15.0
_PROMPT: Final = "A lighthouse in the morning mist"
_EDIT: Final = "Add a small red boat"
_SECOND_EDIT: Final = "Add two gulls"
_STREAMED: Final = "A fox asleep under a birch"
_AZURE_MODEL: Final = "gpt-image-2.6-flare"
_CALLS: Final = 4


def run(*, once: bool) -> int:
    """Run the demo; return the exit code."""
    try:
        asyncio.run(_run(once=once))
    except asyncio.CancelledError:
        pass
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(*, once: bool) -> None:
    """Run the demo until it ends or a signal ends it; either way everything is stopped."""
    task = asyncio.ensure_future(_demo(once=once))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        say("stopping everything")
        task.cancel()

    # SIGINT explicitly: a shell lets programs in the background ignore it.
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    await task


async def _demo(*, once: bool) -> None:
    host, port = _address()
    _require_free(host, port)
    OUTPUT.mkdir(exist_ok=True)
    # The log holds records of this demo only, not of an earlier one.
    (OUTPUT / "logs" / "requests.jsonl").unlink(missing_ok=True)
    # Kept calls of an earlier demo would answer those of this one.
    shutil.rmtree(OUTPUT / "state" / "calls", ignore_errors=True)
    secret = f"sk-demo-{secrets.token_hex(12)}"
    say("starting an embedded Postgres (the first time takes some seconds)")
    with postgres.embedded() as database:
        say("starting a sample upstream that draws what the prompt says")
        upstream = SampleUpstream()
        async with _serving(upstream) as upstream_url:
            _fill(database, secret, upstream_url)
            say(f"starting the gateway on {host}:{port}")
            ops = f"127.0.0.1:{_free_port()}"
            async with _gateway(database, f"{host}:{port}", ops) as gateway:
                base_url = f"http://{host}:{port}/v1"
                await _make_pictures(base_url, secret)
                await _show_records()
                await calls.retry(base_url, secret, upstream)
                await calls.submit(base_url, secret)
                if not once:
                    _explain(base_url, secret, ops, database)
                    await gateway.wait()
                    raise DemoError(f"the gateway ended; its log is {_GATEWAY_LOG}")
    say("done: everything is stopped")


async def _make_pictures(base_url: str, secret: str) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key=secret, max_retries=0) as client:
        try:
            await _make_with(client, base_url, secret)
        except APIError as error:
            raise DemoError(f"a call failed: {error}") from None


async def _make_with(client: AsyncOpenAI, base_url: str, secret: str) -> None:
    say(f"generating on the Codex account, with the official openai SDK: {_PROMPT!r}")
    generated = await client.images.generate(model=MODEL, prompt=_PROMPT, size="1024x1024")
    picture = base64.b64decode((generated.data or [])[0].b64_json or "")
    save("generated.png", picture)

    say(f"editing it there with plain JSON: {_EDIT!r}")
    edited = await _edit_with_json(base_url, secret, picture)
    save("edited.png", edited)

    say(f"editing that as multipart, on the Azure deployment of {_AZURE_MODEL}: {_SECOND_EDIT!r}")
    edited_by_azure = await client.images.edit(
        model=_AZURE_MODEL, prompt=_SECOND_EDIT, image=[("boat.png", edited, "image/png")]
    )
    save("edited-by-azure.png", base64.b64decode((edited_by_azure.data or [])[0].b64_json or ""))

    say(f"streaming with partial pictures, by Codex's Responses route: {_STREAMED!r}")
    stream = await client.images.generate(
        model=MODEL, prompt=_STREAMED, stream=True, partial_images=3
    )
    async for event in stream:
        if event.type == "image_generation.partial_image":
            name = f"streamed-{event.partial_image_index}.png"
        else:
            name = "streamed.png"
        save(name, base64.b64decode(event.b64_json))


async def _edit_with_json(base_url: str, secret: str, picture: bytes) -> bytes:
    url = "data:image/png;base64," + base64.b64encode(picture).decode()
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{base_url}/images/edits",
            json={"model": MODEL, "prompt": _EDIT, "images": [{"image_url": url}]},
            headers={"authorization": f"Bearer {secret}"},
        ) as response,
    ):
        edited = await response.json()
        if response.status != 200:
            raise DemoError(f"the edit was answered with {response.status}: {edited}")
    return base64.b64decode(edited["data"][0]["b64_json"])


async def _show_records() -> None:
    path = OUTPUT / "logs" / "requests.jsonl"
    say(f"the log records of these calls, from {path}:")
    for line in (await _records(path))[-_CALLS:]:
        record = json.loads(line)
        facts = {name: value for name, value in record.items() if value not in (None, [], False)}
        print(json.dumps(facts, indent=2))


async def _records(path: Path) -> list[str]:
    """The lines of the log once it has a record of each call, which is written a moment later."""
    async with asyncio.timeout(_STOP_SECONDS):
        while True:
            lines = _whole_lines(path)
            if len(lines) >= _CALLS:
                return lines
            await asyncio.sleep(0.05)


def _whole_lines(path: Path) -> list[str]:
    return path.read_text("utf-8").split("\n")[:-1] if path.exists() else []


def _explain(base_url: str, secret: str, ops: str, database: str) -> None:
    print(f"""
The gateway is up. Call it with curl:

  curl -s {base_url}/images/generations \\
    -H 'authorization: Bearer {secret}' -H 'content-type: application/json' \\
    -d '{{"prompt": "A cat on a bicycle"}}' -o answer.json

or with the SDK:

  from openai import OpenAI
  client = OpenAI(base_url="{base_url}", api_key="{secret}")
  image = client.images.generate(model="gpt-image-2", prompt="A cat on a bicycle")

Its status page is http://{ops}/status, its log records are in {OUTPUT / "logs"}.
To change its keys and accounts:

  export {PREFIX}ADMIN_DATABASE_URL='{database}'
  image-gateway control key list

Ctrl-C ends everything.
""")


# -- parts -----------------------------------------------------------------------------------------


def _address() -> tuple[str, int]:
    try:
        return parse_address(os.environ.get(f"{PREFIX}BIND", "127.0.0.1:19082"))
    except ValueError as error:
        raise DemoError(f"{PREFIX}BIND {error}") from None


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DemoError(
                f"port {port} on {host} cannot be used ({error.strerror}): stop what listens "
                f"there, or choose another one: {PREFIX}BIND=127.0.0.1:19182 scripts/demo"
            ) from None


def _free_port() -> int:
    """A port for the ops listener: an instance may already run on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def _serving(upstream: SampleUpstream) -> AsyncIterator[str]:
    runner = web.AppRunner(upstream.application())
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _fill(database: str, secret: str, upstream_url: str) -> None:
    """The standalone control plane with one key and two accounts."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(postgres.schema().encode())
        connection.execute(
            "INSERT INTO image_control.keys (key_id, key_name, key_hash) VALUES (%s, %s, %s)",
            ("key-demo", "demo", hashlib.sha256(secret.encode()).hexdigest()),
        )
        connection.execute(
            "INSERT INTO image_control.accounts"
            " (account_name, dialect, base_url, credential, deployments, responses_model)"
            " VALUES (%s, 'codex', %s, %s, %s, 'gpt-5.5')",
            (
                "codex-demo",
                f"{upstream_url}/codex",
                Jsonb({"access_token": sample_upstream.TOKEN, "account_id": "demo"}),
                Jsonb({MODEL: MODEL}),
            ),
        )
        connection.execute(
            "INSERT INTO image_control.accounts"
            " (account_name, dialect, base_url, credential, deployments, api_version)"
            " VALUES (%s, 'azure', %s, %s, %s, %s)",
            (
                "azure-demo",
                upstream_url,
                Jsonb({"api_key": sample_upstream.TOKEN}),
                Jsonb({_AZURE_MODEL: sample_upstream.DEPLOYMENT}),
                sample_upstream.API_VERSION,
            ),
        )


@asynccontextmanager
async def _gateway(database: str, bind: str, ops: str) -> AsyncIterator[asyncio.subprocess.Process]:
    reader = database.replace("//postgres:@", "//image_gateway_reader:@", 1)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
        f"{PREFIX}BIND": bind,
        f"{PREFIX}OPS_BIND": ops,
        f"{PREFIX}CONTROL_DATABASE_URL": reader,
        f"{PREFIX}LOG_DIR": str(OUTPUT / "logs"),
        f"{PREFIX}STATE_DIR": str(OUTPUT / "state"),
        f"{PREFIX}PUBLIC_URL": f"http://{bind}",
    }
    with _GATEWAY_LOG.open("wb") as log:
        # In a session of its own: Ctrl-C must reach only the demo, which then stops the gateway.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "image_gateway",
            "serve",
            env=environment,
            stderr=log,
            start_new_session=True,
        )
    try:
        await _wait_until_up(process, f"http://{bind}/healthz")
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _wait_until_up(process: asyncio.subprocess.Process, url: str) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS), aiohttp.ClientSession() as session:
            while process.returncode is None:
                try:
                    async with session.get(url):
                        return
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)
    except TimeoutError:
        raise DemoError(f"the gateway did not answer within {_START_SECONDS:.0f} s") from None
    raise DemoError(f"the gateway ended at its start; its log is {_GATEWAY_LOG}")
