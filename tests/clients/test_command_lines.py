"""Pictures by command lines: curl in its own forms, and the one that the Python SDK once had.

PHP's forms are curl's, because PHP calls its library; Ruby's are written out here.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.clients.test_images import EDITS, GENERATIONS, pictures_of
from tests.daemon.conftest import Door, MakeDoor
from tests.parts.clients import OPENAI_CLI, environment
from tests.parts.upstream import Call, ScriptedUpstream, answers, draws, images, picture

SECONDS = 30.0
KINDS = ("codex", "openai", "azure-legacy")
# How curl, Ruby and PHP name several pictures of one edit.
NAMES = {
    "image twice": ("image", "image"),
    "image[] twice": ("image[]", "image[]"),
    "image[0] and image[1]": ("image[0]", "image[1]"),
}


async def command(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a program."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, words = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(), words.decode()


async def curl(door: Door, path: str, *arguments: str) -> Any:
    """The JSON that curl writes, with its status under ``status``."""
    code, out, words = await command(
        "curl",
        "--silent",
        "--show-error",
        "--write-out",
        "\n%{http_code}",
        "--header",
        f"Authorization: Bearer {door.secret}",
        f"{door.gateway.base_url}{path}",
        *arguments,
    )
    assert code == 0, words
    body, _, status = out.rpartition("\n")
    return {**json.loads(body), "status": int(status)}


@pytest.mark.parametrize("kind", KINDS)
async def test_curl_posts_json(doors: MakeDoor, upstream: ScriptedUpstream, kind: str) -> None:
    """``--json`` sets the type of the body; what ``-d`` sends without one is another matter."""
    door = doors(kind)
    seen = await curl(door, "/images/generations", "--json", '{"prompt": "a cat"}')
    assert (seen["status"], seen["data"][0]["b64_json"]) == (200, picture())
    [call] = upstream.calls
    assert call.target == GENERATIONS[kind]
    assert (await door.record())["body_form"] == "json"


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("kind", KINDS)
async def test_several_pictures_of_a_form_arrive_however_they_are_named(
    doors: MakeDoor,
    upstream: ScriptedUpstream,
    pictures: Callable[[int], Sequence[str]],
    kind: str,
    names: tuple[str, ...],
) -> None:
    upstream.script = answers(200, images())
    door = doors(kind)
    paths = pictures(2)
    parts = [
        argument
        for name, path in zip(names, paths, strict=True)
        for argument in ("--form", f"{name}=@{path};type=image/png")
    ]
    seen = await curl(door, "/images/edits", "--form", "prompt=a cat", *parts)
    assert (seen["status"], seen.get("error")) == (200, None)
    [call] = upstream.calls
    assert call.target == EDITS[kind]
    assert pictures_of(call) == [Path(path).read_bytes() for path in paths]
    record = await door.record()
    assert (record["status"], record["input_image_count"]) == (200, 2)


def ruby_form(paths: Sequence[str], name: str) -> tuple[str, bytes]:
    """Type and body of an edit as the gem multipart-post writes it: each file's part has a length
    and a transfer encoding, and a line follows the end.
    """
    boundary = "-----------RubyMultipartPost-5f1c"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na cat\r\n'.encode()
    )
    for path in paths:
        data = Path(path).read_bytes()
        lines = (
            f"--{boundary}",
            f'Content-Disposition: form-data; name="{name}"; filename="{Path(path).name}"',
            f"Content-Length: {len(data)}",
            "Content-Type: image/png",
            "Content-Transfer-Encoding: binary",
        )
        body += "\r\n".join((*lines, "", "")).encode() + data + b"\r\n"
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n\r\n".encode()


@pytest.mark.parametrize("name", ["image", "image[]"])
@pytest.mark.parametrize("kind", KINDS)
async def test_several_pictures_of_a_form_in_ruby_arrive(
    doors: MakeDoor,
    upstream: ScriptedUpstream,
    pictures: Callable[[int], Sequence[str]],
    kind: str,
    name: str,
) -> None:
    upstream.script = answers(200, images())
    door = doors(kind)
    paths = pictures(2)
    form, body = ruby_form(paths, name)
    status, _, answer = await door.post(body, "/v1/images/edits", content_type=form)
    assert status == 200, answer
    [call] = upstream.calls
    assert pictures_of(call) == [Path(path).read_bytes() for path in paths]
    assert (await door.record())["input_image_count"] == 2


@pytest.mark.parametrize("form", ["file", "stdin"])
async def test_curl_edits_one_picture(
    doors: MakeDoor,
    upstream: ScriptedUpstream,
    pictures: Callable[[int], Sequence[str]],
    form: str,
) -> None:
    """From a file curl names the type by its suffix; from a pipe it names none."""
    upstream.script = answers(200, images())
    door = doors("openai")
    [path] = pictures(1)
    source = f"image=@{path}" if form == "file" else "image=@-;filename=upload"
    arguments = ("--form", "prompt=a cat", "--form", source)
    if form == "file":
        seen = await curl(door, "/images/edits", *arguments)
    else:
        url, key = f"{door.gateway.base_url}/images/edits", f"Authorization: Bearer {door.secret}"
        piped = 'curl --silent --header "$0" "$1" "${@:3}" < "$2"'
        code, out, words = await command("bash", "-c", piped, key, url, path, *arguments)
        assert code == 0, words
        seen = {**json.loads(out), "status": 200}
    assert (seen["status"], seen.get("error")) == (200, None)
    assert pictures_of(upstream.calls[0]) == [Path(path).read_bytes()]
    assert (await door.record())["status"] == 200


async def test_curl_tries_again_after_the_wait_and_buys_one_picture(
    doors: MakeDoor, upstream: ScriptedUpstream
) -> None:
    """curl reads ``Retry-After``, in whole seconds."""

    async def script(call: Call) -> None:
        if len(upstream.calls) == 1:
            error = {"message": "Slow down.", "type": "rate_limit_error", "code": "slow_down"}
            await call.answer(429, {"error": error}, {"retry-after": "1"})
        else:
            await draws(call)

    upstream.script = script
    door = doors("openai")
    retrying = ("--retry", "3", "--json", '{"prompt": "a cat"}', "--output", "-")
    code, out, words = await command(
        "curl",
        "--silent",
        "--header",
        f"Authorization: Bearer {door.secret}",
        f"{door.gateway.base_url}/images/generations",
        *retrying,
    )
    assert code == 0, words
    assert picture() in out
    assert len(upstream.calls) == 2
    await door.record(status=429)
    assert (await door.record(status=200))["response_image_count"] == 1


async def test_curl_fails_with_the_words_of_a_refusal(doors: MakeDoor) -> None:
    door = doors("openai", key={"status": "disabled"})
    code, out, words = await command(
        "curl",
        "--silent",
        "--show-error",
        "--fail-with-body",
        "--header",
        f"Authorization: Bearer {door.secret}",
        f"{door.gateway.base_url}/images/generations",
        "--json",
        '{"prompt": "a cat"}',
    )
    assert (code, "403" in words) == (22, True)
    assert json.loads(out)["error"]["code"] == "key_disabled"
    assert (await door.record())["status"] == 403


# -- the command line of the Python SDK ------------------------------------------------------------


async def openai_cli(door: Door, *arguments: str) -> tuple[int, str, str]:
    assert OPENAI_CLI.exists(), "not installed: run scripts/client-packages"
    # It joins the base and the path as they are, so the base needs its last slash.
    base = ("-b", f"{door.gateway.base_url}/", "-k", door.secret)
    return await command(str(OPENAI_CLI), *base, "api", *arguments, "-m", "gpt-image-2")


@pytest.mark.parametrize("kind", KINDS)
async def test_the_openai_command_generates(
    doors: MakeDoor, upstream: ScriptedUpstream, kind: str
) -> None:
    """It always names a ``response_format``; by default one of addresses."""
    door = doors(kind)
    code, out, words = await openai_cli(door, "images.generate", "-p", "a cat")
    assert code == 0, words
    assert json.loads(out)["data"][0]["url"] == f"data:image/png;base64,{picture()}"
    [call] = upstream.calls
    assert call.target == GENERATIONS[kind]
    assert "response_format" not in call.json()
    assert (await door.record())["status"] == 200


@pytest.mark.parametrize("wanted", [None, "b64_json"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_openai_command_edits(
    doors: MakeDoor,
    upstream: ScriptedUpstream,
    pictures: Callable[[int], Sequence[str]],
    kind: str,
    wanted: str | None,
) -> None:
    upstream.script = answers(200, images())
    door = doors(kind)
    [path] = pictures(1)
    named = () if wanted is None else ("--response-format", wanted)
    code, out, words = await openai_cli(door, "images.edit", "-p", "a cat", "-I", path, *named)
    assert code == 0, words
    [made] = json.loads(out)["data"]
    if wanted is None:
        assert made["url"] == f"data:image/png;base64,{picture()}"
    else:
        assert made["b64_json"] == picture()
    [call] = upstream.calls
    assert call.target == EDITS[kind]
    assert b"response_format" not in call.body
    assert pictures_of(call) == [Path(path).read_bytes()]
    assert (await door.record())["status"] == 200


async def test_the_openai_command_shows_a_refusal(doors: MakeDoor) -> None:
    door = doors("openai", key={"status": "disabled"})
    code, _, words = await openai_cli(door, "images.generate", "-p", "a cat")
    assert code == 1
    assert "This API key is not active." in words
    assert (await door.record())["status"] == 403
