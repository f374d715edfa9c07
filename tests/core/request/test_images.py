"""A picture in both of its forms: text and bytes of exactly the length that was announced."""

import base64
import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_gateway.core.codec import body_segments, json_skeleton, multipart
from image_gateway.core.codec.body_segments import Decoded, Encoded, Span
from image_gateway.core.errors import Refusal
from image_gateway.core.request import images
from image_gateway.core.request.images import Image
from tests.core.builders import play, read, split
from tests.parts.examples import scaled

MAGIC = {
    "image/png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0\1",
    "image/webp": b"RIFF\xff\xfb\xef\xbeWEBPVP8 ",
}
FOREIGN = {
    "image/gif": b"GIF89a\1\0\1\0\x80\0\0",
    "image/svg+xml": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}
_KINDS = st.sampled_from(sorted(MAGIC))
_SPELLINGS = {
    "/": ["/", "\\/", "\\u002f", "\\u002F"],
    "+": ["+", "\\u002b", "\\u002B"],
    "=": ["=", "\\u003d", "\\u003D"],
}


def _written(text: str, spelt: dict[str, str]) -> str:
    return "".join(spelt.get(character, character) for character in text)


def _from_json(text: bytes, chunks: list[bytes] | None = None, kind: str = "image") -> Image:
    """The picture of ``["..."]``."""
    value, lifted = read(text, chunks)
    assert isinstance(value, list)
    return images.from_json(kind, "images[0]", value[0], lifted)


def _fault(text: bytes, chunks: list[bytes] | None = None) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as refused:
        _from_json(text, chunks)
    assert "AAAA" not in refused.value.message
    return refused.value.code, refused.value.param


# -- JSON: a data URL and its bytes ----------------------------------------------------------


@given(_KINDS, st.binary(max_size=40), st.sampled_from([0, 0, 3000, 9001]), st.data())
@settings(max_examples=scaled(250))
def test_a_data_url_is_its_bytes_however_it_is_written_and_cut(
    kind: str, tail: bytes, more: int, draw: st.DataObject
) -> None:
    """Escaped or not, padded or not, short or lifted: the same bytes, their number known before."""
    written = MAGIC[kind] + b"\xfb\xef\xbe\xff" * (more // 4) + tail
    encoded = base64.b64encode(written).decode()
    if draw.draw(st.booleans()):
        encoded = encoded.rstrip("=")
    spelt = {character: draw.draw(st.sampled_from(ways)) for character, ways in _SPELLINGS.items()}
    declared = draw.draw(st.sampled_from(["png", "jpeg", "jpg", "webp"]))
    slash = draw.draw(st.sampled_from(["/", "\\/"]))
    text = f'["data:image{slash}{declared};base64,{_written(encoded, spelt)}"]'.encode()
    image = _from_json(text, draw.draw(split(text)))
    assert image.data is not None
    assert play(image.data, text) == written
    assert image.size == body_segments.length(image.data) == len(written)
    assert image.type == kind  # what the bytes show, not what was declared


@given(st.sampled_from([0, 5000]), st.sampled_from(["png", "jpeg", "jpg", "webp"]))
def test_bytes_that_show_nothing_are_believed_their_declaration(more: int, declared: str) -> None:
    text = json.dumps([f"data:image/{declared};base64,AAAA" + "A" * more]).encode()
    image = _from_json(text)
    assert image.type == ("image/jpeg" if declared == "jpg" else f"image/{declared}")


@pytest.mark.parametrize("kind", sorted(FOREIGN))
@pytest.mark.parametrize("more", [0, 9000])
def test_another_type_is_refused_whatever_is_declared(kind: str, more: int) -> None:
    encoded = base64.b64encode(FOREIGN[kind] + bytes(more)).decode()
    text = json.dumps([f"data:image/png;base64,{encoded}"]).encode()
    assert _fault(text) == ("invalid_value", "images[0]")


@pytest.mark.parametrize("more", [0, 8000])
@pytest.mark.parametrize(
    "end",
    [
        "A",  # no base64 ends so
        "A===",
        "A=A=",
        "AA=A",
        "AAA==",
        "AAAA=",
        "====",
        "AAA!",
        "AA-_",
        "AA AA",
        "AAA\\n",
        "AAA\\u00e9",
        "AAAé",
        "AAAA\\\\",
        "AAA\\\\u002b",
        "AA\\\\u003d",
        '\\"AAA',
        "data:image/png;base64,AAAA",
    ],
)
def test_a_data_url_that_is_no_base64_is_refused(more: int, end: str) -> None:
    text = f'["data:image/png;base64,{"A" * more}{end}"]'.encode()
    assert _fault(text) == ("invalid_value", "images[0]")
    assert _fault(text, [text[:5000], text[5000:]]) == ("invalid_value", "images[0]")


_ODDITIES = st.lists(
    st.sampled_from(
        [
            "A",
            "AA",
            "AAAA" * 600,
            "\\\\",
            "\\/",
            "\\u002b",
            "\\u003d",
            "=",
            ":",
            ";",
            ",",
            "!",
            "\\n",
        ]
    ),
    max_size=7,
).map("".join)


@given(_ODDITIES, st.sampled_from([0, 4800]), st.data())
@settings(max_examples=scaled(300))
def test_a_picture_that_is_taken_can_be_played_whatever_it_is_made_of(
    inner: str, more: int, draw: st.DataObject
) -> None:
    """What is no base64 is refused here, and not in the midst of a call to an upstream."""
    text = f'["data:image/png;base64,{"A" * more}{inner}"]'.encode()
    at = draw.draw(st.lists(st.integers(max(0, len(text) - 40), len(text)), max_size=3))
    borders = sorted([0, *at, len(text)])
    chunks = [text[start:stop] for start, stop in pairwise(borders)]
    try:
        image = _from_json(text, chunks)
    except Refusal:
        return
    assert image.data is not None
    assert len(play(image.data, text)) == image.size
    plain = json.loads(text)[0].partition(",")[2]
    assert play(image.data, text) == base64.b64decode(
        plain + "=" * (-len(plain) % 4), validate=True
    )


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_an_escaped_backslash_cannot_hide_other_odd_characters(pieces: int) -> None:
    """Where the chunks' borders lie is for the client to choose."""
    text = b'["data:image/png;base64,' + b"A" * 5000 + b"\\\\" + b"A" * 99 + b"!!AA" + b'"]'
    borders = {1: [0], 2: [0, 5100], 3: [0, 5100, 5200]}[pieces] + [len(text)]
    chunks = [text[start:stop] for start, stop in pairwise(borders)]
    assert _fault(text, chunks) == ("invalid_value", "images[0]")


@pytest.mark.parametrize("pad", ["", "=", "=="])
def test_a_lifted_picture_is_a_span_that_is_decoded_on_its_way(pad: str) -> None:
    data = "A" * (8000 - len(pad)) + pad
    text = f'["data:image/png;base64,{data}"]'.encode()
    image = _from_json(text)
    place = Span(2 + 22, 2 + 22 + 8000)
    assert image.data == (Decoded(place, 6000 - len(pad)),)
    assert image.text == json_skeleton.placeholder(0)


@pytest.mark.parametrize(
    "address", ["https://example.com/a.png", "https://example.com/" + "a" * 9000, "https://[::1]/a"]
)
def test_an_address_has_no_bytes(address: str) -> None:
    image = _from_json(json.dumps([address]).encode())
    assert (image.data, image.type, image.size) == (None, None, None)


def test_a_long_address_may_have_escaped_slashes() -> None:
    text = b'["https:\\/\\/example.com\\/' + b"a" * 9000 + b'"]'
    assert _from_json(text).data is None


@pytest.mark.parametrize("name", ["mask", "markup"])
def test_a_mask_that_is_a_png_by_its_bytes_is_one(name: str) -> None:
    def text(declared: str, kind: str) -> bytes:
        encoded = base64.b64encode(MAGIC[kind]).decode()
        return json.dumps([f"data:image/{declared};base64,{encoded}"]).encode()

    image = _from_json(text("jpeg", "image/png"), kind=name)
    assert image.type == "image/png"
    for declared, kind in (("png", "image/jpeg"), ("png", "image/webp")):
        with pytest.raises(Refusal) as refused:
            _from_json(text(declared, kind), kind=name)
        assert "png" in refused.value.message


# -- multipart: bytes and their data URL -----------------------------------------------------


def _part(name: str, data: bytes, declared: str = "") -> multipart.Part:
    return multipart.Part(
        name,
        data=Span(7, 7 + len(data)),
        head=data[:32],
        declared=declared,
        kind=name.removesuffix("[]"),
    )


@given(_KINDS, st.binary(max_size=60), st.sampled_from(["", "application/octet-stream", "a/b"]))
def test_a_part_is_its_data_url_of_exactly_the_announced_length(
    kind: str, tail: bytes, declared: str
) -> None:
    data = MAGIC[kind] + tail
    image, text = images.from_part(_part("image", data, declared), 3)
    spool = b"before!" + data + b"after"
    url = f"data:{kind};base64,".encode() + base64.b64encode(data)
    assert play(text, spool) == url
    assert body_segments.length(text) == len(url)
    assert text[1] == Encoded(Span(7, 7 + len(data)))
    assert image == Image(json_skeleton.placeholder(3), (Span(7, 7 + len(data)),), kind, len(data))
    assert image.data is not None
    assert play(image.data, spool) == data


@given(_KINDS, st.binary(max_size=60))
def test_both_forms_of_one_picture_are_each_other_s(kind: str, tail: bytes) -> None:
    """A part's data URL, read as JSON again, gives the part's bytes."""
    data = MAGIC[kind] + tail
    _, text = images.from_part(_part("image", data), 0)
    back = b'["' + play(text, b"before!" + data) + b'"]'
    image = _from_json(back)
    assert image.data is not None
    assert play(image.data, back) == data
    assert (image.type, image.size) == (kind, len(data))


@pytest.mark.parametrize("declared", ["image/png", "image/jpeg", "image/webp"])
def test_a_part_that_shows_nothing_is_believed_its_type(declared: str) -> None:
    image, text = images.from_part(_part("image", b"abc", declared), 0)
    assert image.type == declared
    assert play(text, b"before!abc") == f"data:{declared};base64,YWJj".encode()


@pytest.mark.parametrize(
    ("data", "declared"),
    [
        (b"abc", ""),
        (b"abc", "application/octet-stream"),
        (b"abc", "image/gif"),
        (b"https://example.com/a.png", "text/plain"),
        *((first, "image/png") for first in FOREIGN.values()),
    ],
)
@pytest.mark.parametrize("name", ["image", "image[]"])
def test_a_part_of_another_type_is_refused_whatever_it_says(
    name: str, data: bytes, declared: str
) -> None:
    with pytest.raises(Refusal) as refused:
        images.from_part(_part(name, data, declared), 0)
    assert (refused.value.code, refused.value.param) == ("invalid_value", name)
    assert "png, jpeg or webp" in refused.value.message


@pytest.mark.parametrize("name", ["mask", "mask[]", "markup", "markup[]"])
def test_a_mask_s_part_is_a_png(name: str) -> None:
    image, _ = images.from_part(_part(name, MAGIC["image/png"], "image/jpeg"), 0)
    assert image.type == "image/png"
    with pytest.raises(Refusal) as refused:
        images.from_part(_part(name, MAGIC["image/jpeg"], "image/png"), 0)
    assert (refused.value.code, refused.value.param) == ("invalid_value", name)


@pytest.mark.parametrize("name", ["image", "image[]", "mask", "markup"])
@pytest.mark.parametrize("data", [Span(5, 5), None])
def test_a_part_of_no_bytes_is_no_picture(name: str, data: Span | None) -> None:
    with pytest.raises(Refusal) as refused:
        images.from_part(replace(_part(name, b"x", "image/png"), data=data), 0)
    assert (refused.value.code, refused.value.param) == ("invalid_value", name)
    assert "empty" in refused.value.message


# -- what tells a picture from others --------------------------------------------------------


def test_a_long_text_has_its_digest_and_a_short_one_is_its_own() -> None:
    url = "data:image/png;base64," + base64.b64encode(MAGIC["image/png"] + bytes(9000)).decode()
    digest = hashlib.sha256(url.encode()).hexdigest()
    assert _from_json(json.dumps([url]).encode()).digest == f"text:{digest}"
    assert _from_json(json.dumps([url[:86]]).encode()).digest is None
    address = "https://example.com/" + "a" * 9000
    digest = hashlib.sha256(address.encode()).hexdigest()
    assert _from_json(json.dumps([address]).encode()).digest == f"text:{digest}"


def test_a_part_has_the_digest_of_its_data() -> None:
    data = MAGIC["image/png"] + b"more"
    part = replace(_part("image", data), digest=hashlib.sha256(data).digest())
    image, _ = images.from_part(part, 0)
    assert image.digest == f"data:{hashlib.sha256(data).hexdigest()}"


def test_a_file_that_holds_the_text_of_a_data_url_is_not_that_data_url() -> None:
    """A part without a known signature is believed its type."""
    url = "data:image/png;base64," + base64.b64encode(MAGIC["image/png"] + bytes(9000)).decode()
    part = replace(
        _part("image", url.encode(), "image/png"), digest=hashlib.sha256(url.encode()).digest()
    )
    assert images.from_part(part, 0)[0].digest != _from_json(json.dumps([url]).encode()).digest


def test_a_picture_does_not_show_itself() -> None:
    shown: Any = repr(Image("hush", (b"hush",), "image/png", 4))
    assert "hush" not in shown
