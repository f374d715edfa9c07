"""Multipart edits: nothing is cut, merged, renamed or put in another order, and nothing is left."""

import asyncio
import base64
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Door, MakeDoor, open_door
from tests.daemon.test_refusals import check_error
from tests.parts import forms
from tests.parts.eventually import eventually
from tests.parts.forms import Piece
from tests.parts.gateway import POOLED, Gateway, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import (
    PNG,
    Call,
    ScriptedUpstream,
    completed,
    drawn,
    frame,
    images,
    partial,
    streams,
)

MIB = 1024 * 1024
EDITS = "/v1/images/edits"
KINDS_OF_HEAD = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    "image/webp": b"RIFF\x24\x00\x00\x00WEBPVP8 ",
}


@pytest.fixture(scope="module")
def narrow(shared_plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A daemon with narrow bounds."""
    folder = tmp_path_factory.mktemp("narrow")
    made = Gateway(
        folder,
        shared_plane.reader_url,
        max_request_bytes=3_000_000,
        max_part_bytes=1_200_000,
        max_parts=6,
        body_idle_seconds=1,
    ).start()
    yield made
    assert list(Path(made.settings["SPOOL_DIR"]).iterdir()) == []
    code = made.stop()
    assert code == 0, made.words()


@pytest.fixture
def narrow_door(narrow: Gateway, shared_plane: Plane, upstream: ScriptedUpstream) -> Door:
    return open_door(narrow, shared_plane, upstream, "openai")


async def edit(door: Door, *pieces: Piece | tuple[str, str]) -> tuple[int, dict[str, str], bytes]:
    return await door.post(forms.body(*pieces), EDITS, content_type=forms.FORM)


# -- what arrives is what was sent -----------------------------------------------------------------


def some_edit(seed: int) -> tuple[list[Piece | tuple[str, str]], list[tuple[str, str, bytes]]]:
    """A random edit and its files as they must arrive; data holds what looks like boundaries."""
    chance = random.Random(seed)
    files: list[tuple[str, str, bytes]] = []
    traps = [f"\r\n--{forms.BOUNDARY}"[:-1].encode(), b"\r\n--", b"\r\n", b"\r", b"\0", b"--", b'"']
    for _ in range(chance.choice([1, 1, 2, 5, 16])):
        kind = chance.choice(list(KINDS_OF_HEAD))
        size = chance.choice([1, 57, 4096, 65_536, 300_000, 1_100_000])
        data = bytearray(KINDS_OF_HEAD[kind] + chance.randbytes(size))
        for _ in range(chance.randrange(20)):
            at = chance.randrange(len(KINDS_OF_HEAD[kind]), len(data) + 1)
            data[at:at] = chance.choice(traps)
        files.append((chance.choice(["image", "image[]"]), kind, bytes(data)))
    pieces: list[Piece | tuple[str, str]] = [
        Piece(name, data, "upload", "application/octet-stream") for name, _, data in files
    ]
    for field in [("prompt", "a çat\r\n--"), ("n", "1"), ("size", "auto"), ("stream", "false")]:
        pieces.insert(chance.randrange(len(pieces) + 1), field)
    return pieces, files


def digests(files: list[tuple[str, str, bytes]]) -> list[tuple[str, str, str]]:
    return [(name, kind, hashlib.sha256(data).hexdigest()) for name, kind, data in files]


async def send_in_pieces(door: Door, body: bytes, chance: random.Random) -> int:
    """The body in chunks of random sizes, chunked transfer and all."""
    reader, writer = await door.gateway.connect()
    head = post(door.secret, b"", EDITS, {"content-type": forms.FORM, "content-length": "0"})
    writer.write(head.replace(b"content-length: 0", b"transfer-encoding: chunked"))
    position = 0
    while position < len(body):
        piece = body[position : position + chance.choice([1, 2, 17, 1000, 65_536, 200_000])]
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        position += len(piece)
    writer.write(b"0\r\n\r\n")
    status, _, _ = parse(await asyncio.wait_for(reader.read(), 20))
    writer.close()
    return status


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["azure-legacy", "openai", "codex", "codex-responses"])
async def test_every_byte_arrives_in_its_place(
    make_account: MakeDoor, upstream: ScriptedUpstream, kind: str, seed: int
) -> None:
    pieces, files = some_edit(seed)
    # The direct route takes five pictures.
    door = make_account(kind, **({"responses_model": "m"} if kind == "codex" else {}))
    if "codex" in kind:

        async def script(call: Call) -> None:
            direct = call.target.endswith("/edits")
            await (call.answer(200, images()) if direct else streams(drawn())(call))

        upstream.script = script
    assert await send_in_pieces(door, forms.body(*pieces), random.Random(seed)) == 200
    [call] = upstream.calls
    if "codex" in kind:
        body = call.json()
        found = body.get("images") or body["input"][0]["content"][1:]
        urls = [item["image_url"] for item in found]
        assert [url.split(";")[0] for url in urls] == [f"data:{kind}" for _, kind, _ in files]
        got = [base64.b64decode(url.split(",", 1)[1], validate=True) for url in urls]
        assert [hashlib.sha256(data).digest() for data in got] == [
            hashlib.sha256(data).digest() for _, _, data in files
        ]
        n = (body.get("tools") or [body])[0].get("n")
        assert n == (1 if call.target.endswith("/edits") else None)
        prompt = body.get("prompt") or body["input"][0]["content"][0]["text"]
    else:
        parts = forms.pieces(call)
        sent = [(p.name, p.type or "", p.data) for p in parts if p.filename is not None]
        name = "image" if len(files) == 1 else "image[]"
        assert digests(sent) == digests([(name, kind, data) for _, kind, data in files])
        texts = {piece.name: piece.data.decode() for piece in parts if piece.filename is None}
        prompt = texts.pop("prompt")
        texts.pop("model", None)
        assert texts == {"n": "1", "size": "auto"}
    assert prompt == "a çat\r\n--"
    record = await door.record()
    assert record["input_image_count"] == len(files)
    assert record["input_image_bytes"] == sum(len(data) for _, _, data in files)


async def test_mask_and_nested_names_arrive(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    door = make_account("openai", deployments={"gpt-image-2.5-sunburst": "gpt-image-2.5-sunburst"})
    status, _, body = await edit(
        door,
        ("svg[model]", "fast"),
        Piece("mask", PNG + b"mask", "m", None),
        ("svg[reasoning][effort]", "low"),
        Piece("image", PNG + b"image"),
        ("output_format", "svg"),
        ("prompt", "a cat"),
        ("model", "gpt-image-2.5-sunburst"),
    )
    assert status == 200, body
    got = {piece.name: piece for piece in forms.pieces(upstream.calls[0])}
    assert got["svg[model]"].data == b"fast"
    assert got["svg[reasoning][effort]"].data == b"low"
    assert (got["mask"].type, got["mask"].data) == ("image/png", PNG + b"mask")
    assert (got["image"].type, got["image"].data) == ("image/png", PNG + b"image")


async def test_a_mask_goes_to_the_route_that_can(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    pieces: list[Piece | tuple[str, str]] = [
        Piece("image", PNG + b"image"),
        Piece("mask", PNG + b"mask"),
        ("prompt", "a"),
    ]
    status, _, body = await edit(make_account("codex"), *pieces)
    error = json.loads(body)["error"]
    assert (status, error["code"], error["param"]) == (400, "unsupported_value", "mask")
    assert upstream.calls == []
    upstream.script = streams(drawn())
    status, _, _ = await edit(make_account("codex", responses_model="main"), *pieces)
    tool = upstream.calls[0].json()["tools"][0]
    assert status == 200
    assert tool["input_image_mask"] == {
        "image_url": f"data:image/png;base64,{base64.b64encode(PNG + b'mask').decode()}"
    }


async def test_a_picture_too_large_for_a_data_url_goes_only_to_who_takes_it_as_it_is(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    pieces: list[Piece | tuple[str, str]] = [
        Piece("image", PNG + bytes(16_000_000)),
        ("prompt", "a"),
    ]
    status, _, body = await edit(make_account("codex", responses_model="m"), *pieces)
    assert status == 400
    check_error(body, "unsupported_value", "image")
    assert upstream.calls == []
    assert (await edit(make_account("azure-v1"), *pieces))[0] == 200


async def test_an_https_picture_goes_only_to_who_can_fetch_it(
    make_account: MakeDoor, upstream: ScriptedUpstream
) -> None:
    body = b'{"prompt": "a", "images": [{"image_url": "https://example.com/a.png"}]}'
    for kind in ("azure-v1", "codex"):
        status, _, answer = await make_account(kind).post(body, EDITS)
        error = json.loads(answer)["error"]
        assert (status, error["code"], error["param"]) == (400, "unsupported_value", "images")
    assert upstream.calls == []
    assert (await make_account("openai").post(body, EDITS))[0] == 200
    assert upstream.calls[-1].json()["images"] == [{"image_url": "https://example.com/a.png"}]


# -- bounds ----------------------------------------------------------------------------------------

IMAGE = Piece("image", PNG + b"x")
PROMPT = ("prompt", "a cat")
CASES: dict[str, tuple[list[Piece | tuple[str, str]], int, str, str | None]] = {
    "a large part": (
        [Piece("image[]", PNG + bytes(1_300_000)), PROMPT],
        413,
        "request_too_large",
        "image[]",
    ),
    "a large body": (
        [*[Piece("image[]", PNG + bytes(1_100_000))] * 3, PROMPT],
        413,
        "request_too_large",
        None,
    ),
    "many parts": ([*[IMAGE] * 6, PROMPT], 400, "invalid_body", "prompt"),
    "a long field": ([IMAGE, PROMPT, ("user", "x" * 5000)], 400, "invalid_value", "user"),
    "a long prompt": ([IMAGE, ("prompt", "x" * 32_001)], 400, "invalid_value", "prompt"),
    "a very long prompt": ([IMAGE, ("prompt", "x" * 500_000)], 400, "invalid_value", "prompt"),
    "no picture": ([PROMPT], 400, "missing_required_parameter", "image"),
    "no prompt": ([IMAGE], 400, "missing_required_parameter", "prompt"),
    "a word for a number": ([IMAGE, PROMPT, ("n", "two")], 400, "invalid_type", "n"),
    "nothing for a number": ([IMAGE, PROMPT, ("n", "")], 400, "invalid_type", "n"),
    "a number out of range": ([IMAGE, PROMPT, ("n", "0")], 400, "invalid_value", "n"),
    "a word for a truth": ([IMAGE, PROMPT, ("stream", "maybe")], 400, "invalid_type", "stream"),
    "an unknown name": ([IMAGE, PROMPT, ("seed", "1")], 400, "unknown_parameter", "seed"),
    "a dotted name": ([IMAGE, PROMPT, ("svg.model", "x")], 400, "unknown_parameter", "svg.model"),
    "one name twice": ([IMAGE, PROMPT, PROMPT], 400, "invalid_value", "prompt"),
    "two masks": (
        [IMAGE, Piece("mask", PNG), Piece("mask", PNG), PROMPT],
        400,
        "invalid_value",
        "mask",
    ),
    "a picture by another name": (
        [Piece("image[one]", PNG, "a.png"), PROMPT],
        400,
        "unknown_parameter",
        "image[one]",
    ),
    "no type": ([Piece("image", b"plain bytes"), PROMPT], 400, "invalid_value", "image"),
    "a gif": ([Piece("image", b"GIF89a" + bytes(20)), PROMPT], 400, "invalid_value", "image"),
    "an empty picture": ([Piece("image", b"", "a.png"), PROMPT], 400, "invalid_value", "image"),
    "a jpeg for a mask": (
        [IMAGE, Piece("mask", b"\xff\xd8\xff\xe0"), PROMPT],
        400,
        "invalid_value",
        "mask",
    ),
    "what could pass for a mark": ([IMAGE, ("prompt", "\0000")], 400, "invalid_value", "prompt"),
    "bytes that are no text": (
        [IMAGE, Piece("prompt", b"\xff\xfe")],
        400,
        "invalid_body",
        "prompt",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_what_breaks_a_bound_or_a_rule_is_named(
    narrow_door: Door, upstream: ScriptedUpstream, case: str
) -> None:
    pieces, wanted, code, param = CASES[case]
    status, _, body = await edit(narrow_door, *pieces)
    assert status == wanted
    check_error(body, code, param)
    assert upstream.calls == []
    record = await narrow_door.record()
    assert (record["status"], record["error_code"]) == (wanted, code)
    assert (record["body_form"], record["attempts"]) == ("multipart", [])


WHOLE = forms.body(IMAGE, PROMPT)
B = forms.BOUNDARY.encode()
BROKEN: dict[str, tuple[bytes, str]] = {
    "cut in its data": (WHOLE[:130], forms.FORM),
    "cut in its last boundary": (WHOLE[:-4], forms.FORM),
    "empty": (b"", forms.FORM),
    "no boundary": (WHOLE, "multipart/form-data"),
    "an endless boundary": (WHOLE, f"multipart/form-data; boundary={'x' * 300}"),
    "another boundary": (WHOLE, "multipart/form-data; boundary=other"),
    "JSON": (b'{"prompt": "a"}', forms.FORM),
    "no name": (WHOLE.replace(b'name="prompt"', b'title="prompt"'), forms.FORM),
    "no disposition": (WHOLE.replace(b"Content-Disposition", b"Content-Whatever"), forms.FORM),
    "an attachment": (WHOLE.replace(b"form-data; name", b"attachment; name"), forms.FORM),
    "an endless header": (
        b"--%b\r\nContent-Disposition: form-data; name=%b\r\n\r\n" % (B, b"x" * 10_000),
        forms.FORM,
    ),
    "endless headers": (
        b"--%b\r\n" % B + b"".join(b"x-%d: y\r\n" % n for n in range(1000)) + b"\r\n",
        forms.FORM,
    ),
    "a broken header": (b"--%b\r\n\xff\xff: y\r\n\r\n" % B, forms.FORM),
    "a transfer encoding": (
        WHOLE.replace(b'name="prompt"', b'name="prompt"\r\nContent-Transfer-Encoding: base64'),
        forms.FORM,
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_body_that_is_no_multipart_is_told_so(
    narrow_door: Door, upstream: ScriptedUpstream, case: str
) -> None:
    body, content_type = BROKEN[case]
    status, _, answer = await narrow_door.post(body, EDITS, content_type=content_type)
    assert status == 400
    check_error(answer, "invalid_body", "prompt" if case == "a transfer encoding" else None)
    assert upstream.calls == []
    assert (await narrow_door.record())["error_code"] == "invalid_body"


async def test_pictures_sent_to_be_generated_are_refused(
    narrow_door: Door, upstream: ScriptedUpstream
) -> None:
    body = forms.body(IMAGE, PROMPT)
    status, _, answer = await narrow_door.post(body, content_type=forms.FORM)
    assert status == 400
    check_error(answer, "unknown_parameter", "image")
    status, _, _ = await narrow_door.post(forms.body(PROMPT, ("n", "2")), content_type=forms.FORM)
    assert status == 200
    assert upstream.calls[-1].json() == {"prompt": "a cat", "model": "gpt-image-2", "n": 2}


# -- nothing is left -------------------------------------------------------------------------------


async def test_no_end_of_a_call_leaves_a_file_or_a_descriptor(
    narrow: Gateway, narrow_door: Door, upstream: ScriptedUpstream
) -> None:
    earlier = len(narrow.records())
    large = forms.body(Piece("image", PNG + bytes(1_150_000)), Piece("image[]", PNG), PROMPT)
    request = post(narrow_door.secret, large, EDITS, {"content-type": forms.FORM})

    async def leave_at(count: int) -> None:
        _, writer = await narrow.connect()
        writer.write(request[:count])
        await writer.drain()
        writer.close()

    async def cut(call: Call) -> None:
        await call.head(200, {"content-length": "1000"})
        await call.send(b'{"data"')

    async def round_of_ends() -> None:
        upstream.script = streams([partial()])
        assert (await narrow_door.post(large, EDITS, content_type=forms.FORM))[0] == 504
        upstream.script = cut
        await narrow_door.post(large, EDITS, content_type=forms.FORM)
        await narrow_door.post(large[:-10], EDITS, content_type=forms.FORM)
        await asyncio.gather(*(leave_at(at) for at in (500, 600_000, 1_100_000)))

    await round_of_ends()
    await eventually(lambda: len(narrow.records()) >= earlier + 6)
    before = narrow.descriptors()
    for _ in range(5):
        await round_of_ends()
    await eventually(lambda: len(narrow.records()) >= earlier + 36)
    await eventually(lambda: narrow.descriptors() <= before + POOLED)
    assert list(Path(narrow.settings["SPOOL_DIR"]).iterdir()) == []
    assert not [path for path in narrow.files() if narrow.settings["SPOOL_DIR"] in path]


async def test_a_body_that_stops_coming_is_given_up(narrow: Gateway, narrow_door: Door) -> None:
    request = post(narrow_door.secret, WHOLE, EDITS, {"content-type": forms.FORM})
    reader, writer = await narrow.connect()
    writer.write(request[:-30])
    status, _, body = parse(await asyncio.wait_for(reader.read(), 20))
    writer.close()
    assert status == 408
    check_error(body, "request_timeout")


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["azure-legacy", "codex"])
async def test_a_large_edit_is_not_held_in_memory(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream, kind: str
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = open_door(gateway, plane, upstream, kind)
    # As a data URL it may have 20971520 characters.
    data = PNG + bytes(15_000_000 if kind == "codex" else 40_000_000)
    body = forms.body(Piece("image", data), PROMPT)
    for _ in range(2):
        assert (await door.post(body, EDITS, content_type=forms.FORM))[0] == 200
    gateway.forget_peak()
    before = gateway.memory("VmHWM")
    assert (await door.post(body, EDITS, content_type=forms.FORM))[0] == 200
    assert gateway.memory("VmHWM") - before <= 8 * MIB
    if kind == "codex":
        url = upstream.calls[-1].json()["images"][0]["image_url"]
        assert base64.b64decode(url.split(",", 1)[1]) == data
    else:
        assert forms.pieces(upstream.calls[-1])[-1].data == data
    assert gateway.stop() == 0


async def test_a_json_edit_of_20_mb_is_decoded_on_its_way(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = open_door(gateway, plane, upstream, "azure-v1")
    data = PNG + random.Random(1).randbytes(15_000_000)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    # As other languages write it: PHP escapes the slash, .NET the plus, Gson the equals sign.
    text = url.replace("/", "\\/").replace("+", "\\u002B").replace("=", "\\u003d")
    body = b'{"prompt": "a", "images": ["%b"]}' % text.encode()
    for _ in range(2):
        assert (await door.post(body, EDITS))[0] == 200
    gateway.forget_peak()
    before = gateway.memory("VmHWM")
    assert (await door.post(body, EDITS))[0] == 200
    assert gateway.memory("VmHWM") - before <= 8 * MIB
    assert forms.pieces(upstream.calls[-1])[-1].data == data
    assert gateway.stop() == 0


@pytest.mark.parametrize("kind", ["openai", "codex-responses"])
async def test_an_event_of_30_mb_is_not_held_in_memory(
    plane: Plane, make_gateway: Any, upstream: ScriptedUpstream, kind: str
) -> None:
    gateway = make_gateway(plane.reader_url).start()
    door = open_door(gateway, plane, upstream, kind)
    size = 22_500_000
    events = [completed(size=size)] if kind == "openai" else drawn(size=size)
    wire = b"".join(map(frame, events))

    async def script(call: Call) -> None:
        await call.head(200, {"content-type": "text/event-stream"})
        for start in range(0, len(wire), MIB):
            await call.send(wire[start : start + MIB])

    upstream.script = script
    for _ in range(2):
        assert len((await door.post(b'{"prompt": "a", "stream": true}'))[2]) > 30_000_000
    gateway.forget_peak()
    before = gateway.memory("VmHWM")
    assert len((await door.post(b'{"prompt": "a", "stream": true}'))[2]) > 30_000_000
    assert gateway.memory("VmHWM") - before <= 8 * MIB
    assert list((gateway.folder / "spool").iterdir()) == []
    assert gateway.stop() == 0


async def test_a_hostile_client_cannot_fill_the_process_log(
    narrow: Gateway, narrow_door: Door
) -> None:
    before = narrow.words()
    for body, content_type in BROKEN.values():
        await narrow_door.post(body, EDITS, content_type=content_type)
    assert narrow.words() == before
