"""Multipart bodies: the same parts for any split, bounds that hold, and forms anybody can read."""

import email
import email.policy
import hashlib
import random
from collections.abc import Iterable, Sequence
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from python_multipart.multipart import FormParser

from image_gateway.core.codec import body_segments, multipart
from image_gateway.core.codec.body_segments import Span
from image_gateway.core.codec.multipart import FormFile, MultipartReader, Part, PartLimits
from image_gateway.core.errors import Refusal
from tests.core.builders import play, split
from tests.parts.examples import scaled

BOUNDARY = b"----a-Boundary.7f"
PICTURES = [
    f"{kind}{number}"
    for kind in ("image", "mask", "markup")
    for number in ("", "[]", "[0]", "[15]")
]
PLENTY = PartLimits(1_000_000, 64)

_Written = tuple[str, bytes, str]
"""A part as it was written: its name, its data, its type."""


def _part(name: str, data: bytes, kind: str = "", more: str = "") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"'
    if name in PICTURES:
        head += '; filename="upload"'
    if kind:
        head += f"\r\nContent-Type: {kind}"
    return b"--" + BOUNDARY + f"\r\n{head}{more}\r\n\r\n".encode() + data + b"\r\n"


_END = b"--" + BOUNDARY + b"--\r\n"


def _written(parts: Iterable[_Written]) -> bytes:
    return b"".join(_part(*part) for part in parts) + _END


def _read(chunks: Iterable[bytes], limits: PartLimits = PLENTY) -> tuple[tuple[Part, ...], bytes]:
    reader = MultipartReader(BOUNDARY, limits)
    laid_down = b"".join(piece for chunk in chunks for piece in reader.feed(chunk))
    return reader.close(), laid_down


def _refusal(chunks: Iterable[bytes], limits: PartLimits = PLENTY) -> Refusal:
    with pytest.raises(Refusal) as refused:
        _read(chunks, limits)
    return refused.value


# What nearly is a boundary, and the bytes that boundaries begin with.
_NEARLY = [
    b"\r",
    b"\n",
    b"-",
    b"\r\n",
    b"\r\n--",
    b"--" + BOUNDARY,
    b"--" + BOUNDARY + b"--\r\n",
    b"\n--" + BOUNDARY + b"\r\n",
    b"\r--" + BOUNDARY + b"--",
    b"\r\n-" + BOUNDARY,
    *(b"\r\n--" + BOUNDARY[:stop] for stop in (1, 5, len(BOUNDARY) - 1)),
    b"\r\n--" + BOUNDARY[:-1] + b"g\r\n",
    b"\r\n--" + BOUNDARY.lower() + b"\r\n",
    b"\r\n\r\n",
    b"\0",
]
_DATA = st.lists(st.one_of(st.sampled_from(_NEARLY), st.binary(max_size=12)), max_size=6).map(
    b"".join
)
_NAMES = st.sampled_from([*PICTURES, "prompt", "n", "svg[model]", "x"])
_PARTS = st.lists(
    st.tuples(
        _NAMES,
        _DATA.filter(lambda data: b"\r\n--" + BOUNDARY not in b"\r\n" + data + b"\r\n"),
        st.sampled_from(["", "image/png", "application/octet-stream"]),
    ),
    max_size=5,
)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("junk", [b"x", b"]--", b"-x\n", b"\n x"])
def test_a_preamble_is_refused_for_any_split(junk: bytes) -> None:
    """Also after a line end, where the parser passes over what its chunk holds."""
    text = b"\r\n" + junk + _written([("n", b"1", "")])
    for cut in range(len(text)):
        assert _refusal([text[:cut], text[cut:]]).code == "invalid_body"


@given(_PARTS, st.data())
@settings(max_examples=scaled(250))
def test_any_split_gives_the_same_parts_places_and_digests(
    parts: list[_Written], data: st.DataObject
) -> None:
    found, laid_down = _read(data.draw(split(_written(parts))))
    assert [(each.name, each.declared) for each in found] == [(n, k) for n, _, k in parts]
    place = 0
    for each, (name, written, _) in zip(found, parts, strict=True):
        if name in PICTURES:
            assert each.text is None
            assert each.data == Span(place, place + len(written))
            assert _digest(laid_down[each.data.start : each.data.stop]) == _digest(written)
            assert each.head == written[:32]
            assert each.digest == hashlib.sha256(written).digest()
            place += len(written)
        else:
            assert (each.text, each.data, each.head) == (written, None, b"")
            assert each.digest == b""
    assert place == len(laid_down)


@given(_PARTS)
@settings(max_examples=scaled(50))
def test_bytes_one_by_one_give_the_same_parts(parts: list[_Written]) -> None:
    text = _written(parts)
    assert _read(text[at : at + 1] for at in range(len(text))) == _read([text])


@pytest.mark.parametrize("nearly", [*_NEARLY, b"\r\n--" + BOUNDARY + b"g", b"\r\n--" + BOUNDARY])
def test_what_nearly_is_a_boundary_is_data_wherever_it_is_cut(nearly: bytes) -> None:
    """A longer line that begins like a boundary is data, too: it is not lost and splits nothing."""
    inner = b"a" + nearly + b"b"
    text = _written([("image", inner, ""), ("n", b"2", "")])
    start = text.index(inner)
    for border in range(start, start + len(inner) + len(BOUNDARY) + 8):
        [image, n], laid_down = _read([text[:border], text[border:]])
        assert laid_down == inner
        assert image.data == Span(0, len(inner))
        assert n.text == b"2"


def test_megabytes_come_out_while_they_come_in() -> None:
    reader = MultipartReader(BOUNDARY, PartLimits(10_000_000, 4))
    reader.feed(_part("image", b"")[:-2])
    held = 0
    for number in range(100):
        chunk = bytes([number]) * 65_536
        out = b"".join(reader.feed(chunk))
        held += len(chunk) - len(out)
        assert abs(held) < 100
    assert repr(reader) == "<MultipartReader of 0 parts, 6553600 bytes of files>"


def test_a_reader_s_parts_do_not_show_what_they_hold() -> None:
    [field, image], _ = _read([_written([("prompt", b"hush", ""), ("image", b"hush", "")])])
    assert "hush" not in repr(field) + repr(image)


# -- what senders write ----------------------------------------------------------------------


def _one(head: bytes, data: bytes = b"x") -> Part:
    [part], _ = _read([b"--" + BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + data + b"\r\n" + _END])
    return part


@pytest.mark.parametrize(
    ("head", "name", "declared"),
    [
        (b'Content-Disposition: form-data; name="image"', "image", ""),
        (b'content-disposition: form-data; name="image"; filename="a.png"', "image", ""),
        (b'CONTENT-DISPOSITION:form-data;name="image"', "image", ""),
        (b"Content-Disposition: form-data; name=image", "image", ""),
        (b'Content-Disposition: Form-Data; name="image"', "image", ""),
        (b'Content-Type: image/png\r\nContent-Disposition: form-data; name="n"', "n", "image/png"),
        (
            b'Content-Disposition: form-data; name="n"\r\nContent-Type: Image/PNG; q=1',
            "n",
            "image/png",
        ),
        (b'Content-Disposition: form-data; name="n"\r\nContent-Type:', "n", ""),
        (b'Content-Disposition: form-data; name="n"\r\nContent-Length: 1', "n", ""),
        (b'Content-Disposition: form-data; filename="a;b.png"; name="image[]"', "image[]", ""),
        (b"Content-Disposition: form-data; name=\"a\"; filename*=UTF-8''%e2", "a", ""),
        ('Content-Disposition: form-data; name="ä"'.encode(), "ä", ""),
        (
            b'Content-Disposition: form-data; name="n"\r\nContent-Disposition: form-data; name="m"',
            "n",
            "",
        ),
    ],
)
def test_a_part_s_headers_are_read_as_senders_write_them(
    head: bytes, name: str, declared: str
) -> None:
    part = _one(head)
    assert (part.name, part.declared) == (name, declared)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_one_by_its_name_whatever_its_headers_say(name: str) -> None:
    bare = f'Content-Disposition: form-data; name="{name}"'.encode()
    for more in (b"", b'; filename="x"', b"\r\nContent-Type: text/plain"):
        part = _one(bare + more)
        assert (part.text, part.data) == (None, Span(0, 1))


@pytest.mark.parametrize("name", ["prompt", "n", "file", "user"])
def test_another_name_is_a_field_even_with_a_file_name(name: str) -> None:
    part = _one(f'Content-Disposition: form-data; name="{name}"; filename="x.png"'.encode())
    assert (part.text, part.data) == (b"x", None)


@pytest.mark.parametrize(
    "name", ["images", "images[]", "image[x]", "image[1000]", "mask_", "markup2", "IMAGE"]
)
def test_a_file_that_is_almost_called_a_picture_is_told_how_they_are_called(name: str) -> None:
    head = f'Content-Disposition: form-data; name="{name}"'.encode()
    with pytest.raises(Refusal) as raised:
        _one(head + b'; filename="x.png"')
    assert (raised.value.code, raised.value.param) == ("unknown_parameter", name)
    assert _one(head).text == b"x"


def test_a_file_that_says_it_is_a_picture_is_told_how_they_are_called() -> None:
    head = b'Content-Disposition: form-data; name="photo"; filename="x.png"\r\nContent-Type: '
    with pytest.raises(Refusal) as raised:
        _one(head + b"image/png")
    assert (raised.value.code, raised.value.param) == ("unknown_parameter", "photo")
    assert _one(head + b"text/plain").text == b"x"


@pytest.mark.parametrize("value", ["", "binary", "8bit", "7bit", "Binary", "8BIT"])
def test_a_part_may_say_that_it_is_sent_as_it_is(value: str) -> None:
    head = f'Content-Disposition: form-data; name="n"\r\nContent-Transfer-Encoding: {value}'
    assert _one(head.encode()).text == b"x"


@pytest.mark.parametrize("value", ["base64", "BASE64", "quoted-printable", "gzip", "x"])
@pytest.mark.parametrize("name", ["image", "prompt"])
def test_a_part_in_a_transfer_encoding_is_refused_and_never_taken_for_its_data(
    value: str, name: str
) -> None:
    refusal = _refusal([_part(name, b"eA==", "", f"\r\nContent-Transfer-Encoding: {value}")])
    assert (refusal.code, refusal.param) == ("invalid_body", name)
    assert "transfer encoding" in refusal.message


def test_a_file_of_no_bytes_is_a_part_of_no_bytes() -> None:
    parts = [("image", b"", ""), ("mask", b"m", ""), ("prompt", b"", ""), ("image", b"", "")]
    found, laid_down = _read([_written(parts)])
    assert laid_down == b"m"
    assert [each.data for each in found] == [Span(0, 0), Span(0, 1), None, Span(1, 1)]
    assert found[2].text == b""


def test_a_body_without_parts_has_none() -> None:
    assert _read([_END]) == ((), b"")


@pytest.mark.parametrize("epilogue", [b"", b"\r\n", b"junk", b"\r\n--" + BOUNDARY + b"\r\n", b"\0"])
def test_what_follows_the_last_boundary_is_for_nobody(epilogue: bytes) -> None:
    text = _written([("n", b"2", "")]).removesuffix(b"\r\n")
    for chunks in ([text + epilogue], [text, epilogue], [text, epilogue, epilogue]):
        [part], laid_down = _read(chunks)
        assert part.text == b"2"
        assert laid_down == b""


@pytest.mark.parametrize(
    "end", [b"\r\n--" + BOUNDARY + b"  \r\n", b"\r\n--" + BOUNDARY + b"\t\r\n"]
)
def test_a_boundary_may_be_followed_by_white_space(end: bytes) -> None:
    """RFC 2046, 5.1.1: transport padding."""
    text = _part("image", b"abc")[:-2] + end + _part("n", b"2").partition(b"\r\n")[2] + _END
    for border in range(len(text)):
        [image, n], laid_down = _read([text[:border], text[border:]])
        assert (laid_down, n.text) == (b"abc", b"2")
        assert image.data == Span(0, 3)


# -- what is broken --------------------------------------------------------------------------


@given(_PARTS.filter(bool), st.data())
def test_a_body_that_ends_early_is_refused_wherever_it_ends(
    parts: list[_Written], data: st.DataObject
) -> None:
    text = _written(parts)
    stop = data.draw(st.integers(0, len(text) - len(b"-\r\n")))
    refusal = _refusal(data.draw(split(text[:stop])))
    assert (refusal.code, refusal.param) == ("invalid_body", None)


_HEAD = b'Content-Disposition: form-data; name="n"'


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"X: y",
        b"Content-Type: image/png",
        b'Content-Disposition: attachment; name="n"',
        b'Content-Disposition: name="n"',
        b"Content-Disposition: form-data",
        b"Content-Disposition: form-data; name=",
        b'Content-Disposition: form-data; name=""',
        b'Content-Disposition: form-data; filename="n"',
        b"Content-Disposition: form-data; name*=UTF-8''n",
        b'Content-Disposition: form-data; name="\xff"',
        b"Content-Disposition",
        _HEAD + b"\r\nbad header: x",
        _HEAD + b"\r\nX-\0: x",
        _HEAD + b"\r\n folded: x",
        _HEAD + b"\r\n: x",
        _HEAD + b"\rX: y",
        b"X: " + b"y" * 5000 + b"\r\n" + _HEAD,
        b"X" * 5000 + b": y\r\n" + _HEAD,
        b"X: y\r\n" * 16 + _HEAD,
    ],
)
def test_broken_part_headers_are_refused(head: bytes) -> None:
    text = b"--" + BOUNDARY + b"\r\n" + head + b"\r\n\r\nx\r\n" + _END
    for chunks in ([text], [text[at : at + 1] for at in range(len(text))]):
        refusal = _refusal(chunks)
        assert (refusal.code, refusal.param) == ("invalid_body", None)
        assert refusal.spec.status == 400


def test_a_header_that_never_ends_is_refused_while_it_comes() -> None:
    reader = MultipartReader(BOUNDARY, PLENTY)
    reader.feed(b"--" + BOUNDARY + b"\r\nX: ")
    for _ in range(4):
        reader.feed(b"y" * 1000)
    with pytest.raises(Refusal):
        reader.feed(b"y" * 1000)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"x",
        b'{"prompt":"a cat"}',
        b"--other\r\n" + _HEAD + b"\r\n\r\nx\r\n--other--\r\n",
        b"--" + BOUNDARY,
        b"--" + BOUNDARY + b"x\r\n",
        b"--" + BOUNDARY + b"\n" + _HEAD + b"\n\nx\n--" + BOUNDARY + b"--\n",
        b"--" + BOUNDARY + b"\r\n" + _HEAD + b"\n\nx\r\n" + _END,
        b"--" + BOUNDARY + b"\r\n" + _HEAD + b"\r\n\r\nx\r\n--" + BOUNDARY + b" x\r\n",
        b"--" + BOUNDARY + b"-x",
        b"\0" + _END,
    ],
)
def test_what_is_no_such_multipart_body_is_refused(text: bytes) -> None:
    refusal = _refusal([text])
    assert (refusal.code, refusal.param) == ("invalid_body", None)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(
                [
                    *_NEARLY,
                    b"\r\n--" + BOUNDARY + b"\r\n",
                    b"--" + BOUNDARY + b"\r\n",
                    _HEAD + b"\r\n\r\n",
                    b'Content-Disposition: form-data; name="image"\r\n\r\n',
                    b"X: y\r\n",
                    b"\r\n--" + BOUNDARY + b"--",
                ]
            ),
            max_size=10,
        ).map(b"".join),
    ),
    st.data(),
)
def test_any_bytes_are_parts_or_a_refusal_of_a_client_s_mistake(
    text: bytes, data: st.DataObject
) -> None:
    refused: Refusal | None = None
    try:
        parts, laid_down = _read(data.draw(split(text)), PartLimits(50, 3))
    except Refusal as refusal:
        refused = refusal
    if refused is not None:
        assert refused.spec.status in {400, 413}
        return
    spans = [part.data for part in parts if part.data is not None]
    assert sum(span.length for span in spans) == len(laid_down)
    assert len(parts) <= 3


# -- bounds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_file_has_its_bound_each_and_all_of_it(name: str, step: int) -> None:
    """Nothing is cut silently: what is too large is refused, by its name."""

    def pieces(size: int) -> list[bytes]:
        text = _written([(name, b"x" * 100, ""), (name, b"y" * size, "")])
        return [text[at : at + step] for at in range(0, len(text), step)]

    _, laid_down = _read(pieces(100), PartLimits(100, 2))
    assert laid_down == b"x" * 100 + b"y" * 100
    refusal = _refusal(pieces(101), PartLimits(100, 2))
    assert (refusal.code, refusal.param) == ("request_too_large", name)
    assert refusal.spec.status == 413
    assert "100 bytes" in refusal.message


def test_a_file_that_never_ends_is_refused_at_its_bound() -> None:
    reader = MultipartReader(BOUNDARY, PartLimits(1000, 2))
    reader.feed(_part("image", b"")[:-2])
    reader.feed(b"x" * 900)
    with pytest.raises(Refusal, match="1000 bytes"):
        reader.feed(b"x" * 200)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_body_has_so_many_parts_and_no_more(count: int) -> None:
    parts = [("n", b"2", "")] * count
    assert len(_read([_written(parts)], PartLimits(10, count))[0]) == count
    refusal = _refusal([_written([*parts, ("size", b"2", "")])], PartLimits(10, count))
    assert (refusal.code, refusal.param) == ("invalid_body", "size")
    assert f"more than {count} parts" in refusal.message


@pytest.mark.parametrize(
    ("name", "longest"), [("prompt", 128_000), ("n", 4096), ("svg[model]", 4096), ("file", 4096)]
)
def test_a_field_has_a_bound(name: str, longest: int) -> None:
    [part], _ = _read([_written([(name, b"x" * longest, "")])])
    assert part.text == b"x" * longest
    refusal = _refusal([_written([(name, b"x" * (longest + 1), "")])])
    assert (refusal.code, refusal.param) == ("invalid_value", name)


def test_the_longest_legal_prompt_fits_in_four_byte_characters() -> None:
    prompt = ("\U0001f408" * 32_000).encode()
    assert len(prompt) == multipart.LONGEST_PROMPT_BYTES
    assert _read([_written([("prompt", prompt, "")])])[0][0].text == prompt


@pytest.mark.parametrize("name", ["a cat on a mat", "x" * 65, "é", "a\tb", "9", "a[b", "\u202ea"])
def test_what_is_no_name_is_not_repeated(name: str) -> None:
    """It may be content that slipped out."""
    refusal = _refusal([_written([(name, b"x" * 5000, "")])])
    assert refusal.param == "(a name that is none)"
    assert f"`{name}`" not in refusal.message


@pytest.mark.parametrize("size", [1, 70])
def test_a_content_type_names_a_boundary_of_1_to_70_characters(size: int) -> None:
    name = "b" * size
    for written in (name, f'"{name}"', f"{name}; charset=utf-8"):
        found = multipart.boundary(f"multipart/form-data; boundary={written}")
        assert found == name.encode()


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; boundary*=b",
        "multipart/form-data; bound=b",
    ],
)
def test_a_content_type_without_a_boundary_is_refused(value: str | None) -> None:
    with pytest.raises(Refusal) as refused:
        multipart.boundary(value)
    assert (refused.value.code, refused.value.param) == ("invalid_body", None)


# -- putting together ------------------------------------------------------------------------

_FIELDS = st.lists(
    st.tuples(
        st.sampled_from(["prompt", "n", "svg[model]", "user"]),
        st.text(st.characters(codec="utf-8"), max_size=12),
    ),
    max_size=4,
)
_FILES = st.lists(
    st.tuples(
        st.sampled_from(["image", "image[]", "mask", "markup"]),
        st.sampled_from(["image/png", "image/jpeg", "image/webp"]),
        _DATA,
    ),
    max_size=4,
)


def _form(
    fields: Sequence[tuple[str, str]], files: Sequence[tuple[str, str, bytes]], boundary: str
) -> tuple[body_segments.Body, bytes, str]:
    """A form whose files lie in a spool behind some other bytes; and the spool."""
    spool = b"before"
    made: list[FormFile] = []
    for name, kind, data in files:
        made.append(FormFile(name, kind, (Span(len(spool), len(spool) + len(data)),)))
        spool += data
    return multipart.form(fields, made, boundary), spool, multipart.form_type(boundary)


def _unguessable(draw: st.DataObject) -> str:
    seed = draw.draw(st.integers(0, 2**64))
    return random.Random(seed).randbytes(16).hex()


@given(_FIELDS, _FILES, st.data())
def test_a_form_is_read_again_with_the_same_data_in_the_same_order(
    fields: list[tuple[str, str]], files: list[tuple[str, str, bytes]], data: st.DataObject
) -> None:
    made, spool, kind = _form(fields, files, _unguessable(data))
    text = play(made, spool)
    assert body_segments.length(made) == len(text)
    reader = MultipartReader(multipart.boundary(kind), PLENTY)
    laid_down = b"".join(reader.feed(text))
    parts = reader.close()
    assert laid_down == b"".join(each for _, _, each in files)
    count = len(fields)
    assert [(part.name, part.text) for part in parts[:count]] == [
        (name, value.encode()) for name, value in fields
    ]
    found = [(part.name, part.declared, part.data) for part in parts[count:]]
    assert [(name, declared) for name, declared, _ in found] == [(n, k) for n, k, _ in files]
    for (_, _, span), (_, _, written) in zip(found, files, strict=True):
        assert span is not None
        assert laid_down[span.start : span.stop] == written


@given(_FIELDS, _FILES, st.data())
def test_a_form_is_what_another_parser_takes_it_for(
    fields: list[tuple[str, str]], files: list[tuple[str, str, bytes]], data: st.DataObject
) -> None:
    """Python's own, which knows nothing of forms but much of MIME."""
    made, spool, kind = _form(fields, files, _unguessable(data))
    head = f"Content-Type: {kind}\r\n\r\n".encode()
    message = email.message_from_bytes(head + play(made, spool), policy=email.policy.HTTP)
    assert isinstance(message, EmailMessage)
    found: list[tuple[object, object, object, object]] = []
    for part in message.iter_parts() if fields or files else []:
        disposition = part["content-disposition"]
        assert disposition.content_disposition == "form-data"
        kind_of_part = part.get_content_type() if "content-type" in part else None
        found.append(
            (
                disposition.params["name"],
                kind_of_part,
                disposition.params.get("filename"),
                part.get_payload(decode=True),
            )
        )
    expected = [(name, None, None, value.encode()) for name, value in fields]
    for number, (name, mime, written) in enumerate(files):
        file_name = f"picture-{number}.{mime.rpartition('/')[2]}"
        expected.append((name, mime, file_name, written))  # type: ignore[arg-type]
    assert found == expected


@given(_FIELDS, _FILES, st.data())
def test_a_form_is_what_servers_take_it_for(
    fields: list[tuple[str, str]], files: list[tuple[str, str, bytes]], data: st.DataObject
) -> None:
    """The form parser that Starlette's relatives use, files told by their names."""
    made, spool, _ = _form(fields, files, boundary := _unguessable(data))
    found: list[tuple[str, bytes]] = []

    def on_field(field: Any) -> None:
        found.append((field.field_name.decode(), field.value or b""))

    def on_file(file: Any) -> None:
        file.file_object.seek(0)
        found.append((file.field_name.decode(), file.file_object.read()))
        file.close()

    parser = FormParser("multipart/form-data", on_field, on_file, boundary=boundary.encode())
    parser.write(play(made, spool))
    parser.finalize()
    parser.close()
    expected = [(name, value.encode()) for name, value in fields]
    assert found == expected + [(name, written) for name, _, written in files]


def test_a_form_s_bytes_are_these() -> None:
    made = multipart.form(
        [("prompt", "ä cat"), ("svg[model]", "m")],
        [
            FormFile("image[]", "image/png", (Span(0, 3),)),
            FormFile("mask", "image/png", (b"mask",)),
        ],
        "b",
    )
    assert (
        play(made, b"abc")
        == (
            '--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nä cat\r\n'
            '--b\r\nContent-Disposition: form-data; name="svg[model]"\r\n\r\nm\r\n'
            '--b\r\nContent-Disposition: form-data; name="image[]"; filename="picture-0.png"\r\n'
            "Content-Type: image/png\r\n\r\nabc\r\n"
            '--b\r\nContent-Disposition: form-data; name="mask"; filename="picture-1.png"\r\n'
            "Content-Type: image/png\r\n\r\nmask\r\n"
            "--b--\r\n"
        ).encode()
    )
    assert multipart.form_type("b") == "multipart/form-data; boundary=b"


def test_a_form_of_nothing_can_be_read() -> None:
    assert play(multipart.form([], [], "b"), b"") == b"--b--\r\n"


def test_a_file_does_not_show_its_data() -> None:
    assert "hush" not in repr(FormFile("image", "image/png", (b"hush",)))
