"""A request's body on its way into the spool: what is laid down, and what a refusal leaves."""

import asyncio
import base64
import json
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from image_gateway.core.codec import body_segments
from image_gateway.core.codec.body_segments import Span
from image_gateway.core.codec.multipart import PartLimits
from image_gateway.core.errors import Refusal
from image_gateway.edge.client import body_parsers
from image_gateway.edge.client.body_parsers import BodyParser, JsonBodyParser, MultipartBodyParser
from image_gateway.edge.spool import Spool, SpoolFullError, Spools
from tests.core.builders import CATALOGUE

MIB = 1024 * 1024
BOUNDARY = b"a boundary of nobody's"
LIMITS = PartLimits(part_bytes=3 * MIB, parts=8)
PNG = b"\x89PNG\r\n\x1a\n"


def part(name: str, data: bytes, *headers: str) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{name}"', *headers]
    return b"--" + BOUNDARY + b"\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + data + b"\r\n"


def file(name: str, data: bytes) -> bytes:
    return part(name, data, "Content-Type: image/png")


END = b"--" + BOUNDARY + b"--\r\n"


def picture(seed: int, size: int) -> bytes:
    """Something like a PNG that holds what boundaries are made of."""
    made = PNG + random.Random(seed).randbytes(size // 2)
    return (made + b"\r\n--" + BOUNDARY[:-1] + made)[:size]


def in_pieces(data: bytes, splits: list[int]) -> Iterator[bytes]:
    for start, stop in pairwise([0, *splits, len(data)]):
        yield data[start:stop]


def random_splits(source: random.Random, size: int, most: int) -> list[int]:
    return sorted(source.randrange(size + 1) for _ in range(source.randrange(most)))


def every(size: int, step: int) -> list[int]:
    return list(range(step, size, step))


async def pour(intake: BodyParser, data: bytes, splits: list[int]) -> None:
    for piece in in_pieces(data, splits):
        await intake.write(piece)


async def laid_down(spool: Spool) -> bytes:
    return b"".join([piece async for piece in spool.play((Span(0, spool.size),))])


async def joined(spool: Spool, segments: body_segments.Body) -> bytes:
    return b"".join([piece async for piece in spool.play(segments)])


def nothing_is_left(spools: Spools) -> bool:
    open_files = []
    for item in Path("/proc/self/fd").iterdir():
        try:
            open_files.append(str(item.readlink()))
        except FileNotFoundError:
            continue  # The look itself had it open.
    return (
        spools.memory.used == spools.disk.used == 0
        and not any(path.startswith(f"{spools.folder}/") for path in open_files)
        and list(spools.folder.iterdir()) == []
    )


# -- multipart -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
async def test_of_multipart_the_files_alone_are_laid_down_in_their_order(
    spools: Spools, seed: int
) -> None:
    """Whatever stands between them, and however the body comes."""
    source = random.Random(seed)
    sizes = [9, 40, 5_000, 400_000, MIB + 5]
    files = [picture(seed * 10 + number, source.choice(sizes)) for number in range(3)]
    mask = picture(seed, source.choice(sizes[:3]))
    whole = b"".join(
        [
            b"\r\n" * source.randrange(2),
            part("prompt", b"a cat"),
            file("image[]", files[0]),
            part("n", b"2"),
            file("mask", mask),
            file("image[]", files[1]),
            part("size", b"1024x1024"),
            file("image", files[2]),
            END,
            b"an epilogue" * source.randrange(2),
        ]
    )
    with spools.open() as spool:
        intake = MultipartBodyParser(spool, BOUNDARY, LIMITS)
        await pour(intake, whole, random_splits(source, len(whole), 40))
        given = intake.close(CATALOGUE, takes_pictures=True)
        assert await laid_down(spool) == files[0] + mask + files[1] + files[2]
        assert spool.size == sum(map(len, files)) + len(mask)
        for image, expected in zip(given.images, files, strict=True):
            assert image.data is not None
            assert await joined(spool, image.data) == expected
        assert given.mask is not None
        assert given.mask.data is not None
        assert await joined(spool, given.mask.data) == mask
        assert given.values == {"prompt": "a cat", "n": 2, "size": "1024x1024"}
        for text, expected in zip(given.texts, [files[0], mask, *files[1:]], strict=True):
            url = b"data:image/png;base64," + base64.b64encode(expected)
            assert await joined(spool, text) == url
            assert body_segments.length(text) == len(url)
    assert nothing_is_left(spools)


async def test_byte_by_byte_it_is_the_same(spools: Spools) -> None:
    whole = part("prompt", b"a cat") + file("image", picture(1, 300)) + END
    with spools.open() as spool:
        intake = MultipartBodyParser(spool, BOUNDARY, LIMITS)
        await pour(intake, whole, every(len(whole), 1))
        given = intake.close(CATALOGUE, takes_pictures=True)
        assert await laid_down(spool) == picture(1, 300)
        assert given.values == {"prompt": "a cat"}
    assert nothing_is_left(spools)


async def test_fields_alone_lay_nothing_down(spools: Spools) -> None:
    whole = part("prompt", b"a cat" * 10_000) + part("n", b"1") + END
    with spools.open() as spool:
        intake = MultipartBodyParser(spool, BOUNDARY, LIMITS)
        await pour(intake, whole, every(len(whole), 1000))
        given = intake.close(CATALOGUE, takes_pictures=False)
        assert (spool.size, spools.memory.used) == (0, 0)
        assert given.values == {"prompt": "a cat" * 10_000, "n": 1}


LARGE = picture(7, 2 * MIB)
"""Two of it are more than a spool keeps in memory."""

BEFORE = part("prompt", b"a cat") + file("image[]", LARGE)

REFUSED: dict[str, tuple[str, bytes]] = {
    "a file that is too large": ("request_too_large", file("image[]", bytes(3 * MIB + 1))),
    "too many parts": ("invalid_body", file("image[]", PNG) * 8 + END),
    "a part without a name": ("invalid_body", part("", b"x")),
    "a part that is no form data": (
        "invalid_body",
        b"--" + BOUNDARY + b"\r\nContent-Disposition: attachment\r\n\r\n",
    ),
    "a part without headers": ("invalid_body", b"--" + BOUNDARY + b"\r\n\r\nx\r\n"),
    "a transfer encoding": (
        "invalid_body",
        part("image[]", b"aGk=", "Content-Transfer-Encoding: base64"),
    ),
    "a header that is broken": ("invalid_body", b"--" + BOUNDARY + b"\r\nno header\r\n\r\n"),
    "a header that is too long": (
        "invalid_body",
        part("image[]", b"x", "X-Long: " + "x" * 10_000),
    ),
    "too many headers": ("invalid_body", part("image[]", b"x", *["X-Again: x"] * 40)),
    "noise behind a boundary": ("invalid_body", b"--" + BOUNDARY + b"noise"),
    "a field that is too long": ("invalid_value", part("user", b"x" * 5000)),
    "a prompt that is too long": ("invalid_value", part("prompt", b"x" * 128_001)),
    "an end within a file": ("invalid_body", file("image[]", LARGE)[:MIB]),
    "an end before the last boundary": ("invalid_body", b""),
    "an empty file": ("invalid_value", file("mask", b"") + END),
    "two masks": ("invalid_value", file("mask", PNG + b"a") * 2 + END),
    "a field that is no number": ("invalid_type", part("n", b"two") + END),
    "a field that was sent twice": ("invalid_value", part("n", b"1") * 2 + END),
    "a field that is not UTF-8": ("invalid_body", part("user", b"\xff") + END),
}


@pytest.mark.parametrize("step", [777, 65536, 10 * MIB])
@pytest.mark.parametrize(("code", "tail"), REFUSED.values(), ids=REFUSED)
async def test_nothing_is_left_of_what_was_laid_down_before_a_refusal(
    spools: Spools, code: str, tail: bytes, step: int
) -> None:
    whole = BEFORE + tail
    with pytest.raises(Refusal) as caught, spools.open() as spool:  # noqa: PT012 - the block is it
        intake = MultipartBodyParser(spool, BOUNDARY, LIMITS)
        await pour(intake, whole, every(len(whole), step))
        assert spools.memory.used + spools.disk.used == spool.size
        intake.close(CATALOGUE, takes_pictures=True)
    assert caught.value.code == code
    assert nothing_is_left(spools)


@pytest.mark.parametrize("seed", range(30))
async def test_a_body_that_ends_anywhere_is_refused_and_leaves_nothing(
    spools: Spools, seed: int
) -> None:
    source = random.Random(seed)
    whole = BEFORE + file("image[]", picture(seed, 700_000)) + END
    stop = source.randrange(len(whole) - len(b"--\r\n"))
    cut = whole[: stop if seed % 3 else source.randrange(300)]
    with pytest.raises(Refusal) as caught, spools.open() as spool:  # noqa: PT012 - the block is it
        intake = MultipartBodyParser(spool, BOUNDARY, LIMITS)
        await pour(intake, cut, random_splits(source, len(cut), 20))
        intake.close(CATALOGUE, takes_pictures=True)
    assert caught.value.code == "invalid_body"
    assert nothing_is_left(spools)


@pytest.mark.parametrize(
    ("memory", "disk"), [(0, 0), (1000, 0), (MIB, 64 * MIB), (64 * MIB, MIB), (64 * MIB, 2 * MIB)]
)
async def test_nothing_is_left_where_there_is_no_room(
    tmp_path: Path, memory: int, disk: int
) -> None:
    whole = BEFORE + file("image[]", LARGE) + END
    with Spools(tmp_path, memory, disk) as spools:
        with pytest.raises(SpoolFullError), spools.open() as spool:
            await pour(
                MultipartBodyParser(spool, BOUNDARY, LIMITS), whole, every(len(whole), 65536)
            )
        assert nothing_is_left(spools)


async def test_a_file_where_none_is_taken_is_refused_and_leaves_nothing(spools: Spools) -> None:
    whole = BEFORE + END
    with pytest.raises(Refusal) as caught, spools.open() as spool:  # noqa: PT012 - the block is it
        intake = MultipartBodyParser(spool, BOUNDARY, LIMITS)
        await pour(intake, whole, every(len(whole), 65536))
        intake.close(CATALOGUE, takes_pictures=False)
    assert caught.value.code == "unknown_parameter"
    assert nothing_is_left(spools)


# -- JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
async def test_json_is_laid_down_whole_and_its_pictures_are_found_in_it(
    spools: Spools, seed: int
) -> None:
    source = random.Random(seed)
    pictures = [picture(seed * 10 + number, source.choice([60, 9000, MIB])) for number in range(2)]
    urls = ["data:image/png;base64," + base64.b64encode(each).decode() for each in pictures]
    value = {"prompt": "ein Kätzchen 🐈", "images": [{"image_url": url} for url in urls], "n": 1}
    whole = json.dumps(value, ensure_ascii=False).encode()
    with spools.open() as spool:
        intake = JsonBodyParser(spool)
        await pour(intake, whole, random_splits(source, len(whole), 40))
        given = intake.close(CATALOGUE, takes_pictures=True)
        assert await laid_down(spool) == whole
        assert given.values == {"prompt": "ein Kätzchen 🐈", "n": 1}
        for image, expected in zip(given.images, pictures, strict=True):
            assert image.data is not None
            assert await joined(spool, image.data) == expected
            assert image.size == len(expected)
    assert nothing_is_left(spools)


LONG = b'{"prompt":"a cat","images":["' + b"A" * (2 * MIB)

BROKEN: dict[str, bytes] = {
    "not UTF-8": LONG + b'","\xff"]}',
    "UTF-8 that is cut": LONG + b'"]}\xf0\x9f',
    "a control character": LONG + b'\n"]}',
    "a broken escape": LONG + b'\\x"]}',
    "nested too deeply": LONG + b'",' + b"[" * 100,
    "not JSON": LONG + b'"]]',
    "cut": LONG,
    "two values": LONG + b'"]}{}',
    "a list": b"[" + b" " * 10 + b"]",
}


@pytest.mark.parametrize("step", [777, 65536, 10 * MIB])
@pytest.mark.parametrize("whole", BROKEN.values(), ids=BROKEN)
async def test_nothing_is_left_of_json_that_is_refused(
    spools: Spools, whole: bytes, step: int
) -> None:
    with pytest.raises(Refusal) as caught, spools.open() as spool:  # noqa: PT012 - the block is it
        intake = JsonBodyParser(spool)
        await pour(intake, whole, every(len(whole), step))
        intake.close(CATALOGUE, takes_pictures=True)
    assert caught.value.code == "invalid_body"
    assert "A" * 20 not in str(caught.value)
    assert nothing_is_left(spools)


MAKERS: list[Callable[[Spool], BodyParser]] = [
    JsonBodyParser,
    lambda spool: MultipartBodyParser(spool, BOUNDARY, LIMITS),
]


@pytest.mark.parametrize("make", MAKERS, ids=["JSON", "multipart"])
async def test_an_empty_body_is_refused(
    spools: Spools, make: Callable[[Spool], BodyParser]
) -> None:
    with pytest.raises(Refusal) as caught, spools.open() as spool:
        make(spool).close(CATALOGUE, takes_pictures=True)
    assert caught.value.code == "invalid_body"


async def test_what_an_intake_shows_of_itself_holds_nothing_of_the_body(spools: Spools) -> None:
    with spools.open() as spool:
        json_intake = JsonBodyParser(spool)
        await json_intake.write(b'{"prompt":"planted"')
        parts_intake = MultipartBodyParser(spool, BOUNDARY, LIMITS)
        await parts_intake.write(part("prompt", b"planted") + part("x", b"planted"))
        for intake in (json_intake, parts_intake):
            assert "planted" not in repr(intake)


async def test_others_get_their_turn_while_a_body_in_memory_is_read_again(spool: Spool) -> None:
    await spool.write(b"[" + b'"",' * 90_000 + b"0]")
    reading = asyncio.ensure_future(body_parsers.reread(spool))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > spool.size // (40 * 1024)


async def test_an_intent_has_a_bounded_number_of_values(spool: Spool) -> None:
    await spool.write(b"[" + b"0," * 200_000 + b"0]")
    with pytest.raises(Refusal):
        await body_parsers.reread(spool)
