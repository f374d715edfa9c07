"""Pictures become data URLs while they stream, and not another byte changes."""

import base64
import json
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_gateway.core.codec import base64_text, data_urls, json_scanner
from tests.core.builders import split
from tests.core.json_texts import JSON_TEXTS, SPACE, STRINGS
from tests.parts.examples import scaled

_MAGIC = {
    "image/png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0\1",
    "image/webp": b"RIFF\xff\xfb\xef\xbeWEBPVP8 ",
    "image/gif": b"GIF89a\1\0\1\0\x80\0\0",
    "image/svg+xml": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


def _picture(kind: str, tail: bytes) -> str:
    return base64.b64encode(_MAGIC[kind] + b"\xff\xfe" * 12 + tail).decode()


@st.composite
def _answers(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """An answer's text, and the text it must become."""
    before: list[str] = []
    after: list[str] = []

    def put(text: str, other: str | None = None) -> None:
        before.append(text)
        after.append(text if other is None else other)

    def entry() -> None:
        kind = draw(st.sampled_from(sorted(_MAGIC)))
        picture = _picture(kind, draw(st.binary(max_size=120)))
        if draw(st.booleans()):
            picture = picture.replace("/", "\\/")
        if draw(st.booleans()):
            picture = picture.replace("+", draw(st.sampled_from(["\\u002b", "\\u002B"])))
        members = ["b64_json", *draw(st.lists(st.sampled_from(["text", "deep"]), max_size=2))]
        put("{")
        for index, member in enumerate(draw(st.permutations(members))):
            put("," + draw(SPACE) if index else "")
            if member == "b64_json":
                spelt = draw(st.sampled_from(['"b64_json"', '"b64\\u005fjson"']))
                put(spelt, '"url"')
                put(draw(SPACE) + ":" + draw(SPACE))
                put(f'"{picture}"', f'"data:{kind};base64,{picture}"')
            elif member == "text":
                put(f'"revised_prompt{index}":' + draw(STRINGS))
            else:
                put(f'"x{index}":{{"b64_json":"QUJD","url":null,"data":[{{"b64_json":"QQ"}}]}}')
        put("}")

    put("{" + draw(SPACE))
    put(draw(st.sampled_from(["", '"created":1,', '"b64_json":"QUJD","url":null,'])))
    put('"data"' + draw(SPACE) + ":" + draw(SPACE) + "[")
    for index in range(draw(st.integers(0, 3))):
        put("," + draw(SPACE) if index else "")
        entry()
    put("]")
    put(draw(st.sampled_from(["", ',"usage":{"data":[{"b64_json":"QQ"}]}', ',"size":"1x1"'])))
    put("}" + draw(SPACE))
    return "".join(before).encode(), "".join(after).encode()


def _rewritten(chunks: Iterable[bytes]) -> bytes:
    urls = data_urls.DataUrls()
    return b"".join([urls.feed(chunk) for chunk in chunks])


@given(_answers(), st.data())
def test_pictures_become_data_urls_and_not_another_byte_changes(
    answer: tuple[bytes, bytes], data: st.DataObject
) -> None:
    text, expected = answer
    assert _rewritten(data.draw(split(text))) == expected


@given(_answers())
@settings(max_examples=scaled(40))
def test_bytes_one_by_one_become_the_same_data_urls(answer: tuple[bytes, bytes]) -> None:
    text, expected = answer
    assert _rewritten(text[at : at + 1] for at in range(len(text))) == expected


@given(_answers(), st.data())
def test_where_each_data_url_is_stands_in_the_order_of_the_text(
    answer: tuple[bytes, bytes], data: st.DataObject
) -> None:
    text, expected = answer
    urls = data_urls.DataUrls()
    made = b"".join([urls.feed(chunk) for chunk in data.draw(split(text))])
    for each in urls.found:
        head = made[each.start : each.base64_start]
        assert head.startswith(b"data:image/")
        assert head.endswith(b";base64,")
        assert made[each.start - 1 : each.start] == b'"' == made[each.stop : each.stop + 1]
    found = [made[each.start : each.stop] for each in urls.found]
    assert [url.decode() for url in found] == re.findall(
        r'"(data:image/[a-z+]+;base64,[^"]*)"', expected.decode()
    )


def test_only_so_many_data_urls_are_noted() -> None:
    urls = data_urls.DataUrls()
    urls.feed(b'{"data":[' + b",".join([b'{"b64_json":"QUJD"}'] * 1500) + b"]}")
    assert len(urls.found) == 1000


@given(JSON_TEXTS)
def test_an_answer_without_data_passes_byte_for_byte(text: bytes) -> None:
    assert _rewritten([b'{"x":' + text + b"}"]) == b'{"x":' + text + b"}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names), f"one key twice: {names}"
    return dict(pairs)


_B64 = _picture("image/webp", b"")
_URL = f"data:image/webp;base64,{_B64}"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"b64_json": _B64}, {"url": _URL}),
        ({"b64_json": _B64, "url": None}, {"url": _URL, "b64_json": None}),
        ({"url": None, "b64_json": _B64}, {"url": _URL, "b64_json": None}),
        ({"url": None, "x": 1, "b64_json": _B64}, {"url": _URL, "b64_json": None, "x": 1}),
        ({"url": "https://example.com/a"}, {"url": "https://example.com/a"}),
        ({"url": ""}, {"url": ""}),
        ({"b64_json": ""}, {"url": "data:image/png;base64,"}),
        ({"b64_json": None}, {"b64_json": None}),
        ({"b64_json": 5}, {"b64_json": 5}),
        ({"b64_json": ["QUJD"], "url": "x"}, {"b64_json": ["QUJD"], "url": "x"}),
        ({"b64_json": {"url": "x", "b64_json": "y"}}, {"b64_json": {"url": "x", "b64_json": "y"}}),
        ({"url": {"url": "x"}, "b64_json": _B64}, {"url": _URL, "b64_json": {"url": "x"}}),
        ({"b64_json": _B64, "url": False}, {"url": _URL, "b64_json": False}),
        ({"revised_prompt": "b64_json"}, {"revised_prompt": "b64_json"}),
        ({}, {}),
    ],
)
def test_an_entry_has_its_picture_as_url_and_no_key_twice(
    entry: dict[str, Any], expected: dict[str, Any]
) -> None:
    for spaced in (None, 1):
        text = json.dumps({"data": [{"url": None}, entry, entry]}, indent=spaced).encode()
        for step in (1, 3, len(text)):
            out = _rewritten(text[at : at + step] for at in range(0, len(text), step))
            made = json.loads(out, object_pairs_hook=_unique)
            assert made["data"][1:] == [expected, expected]


@pytest.mark.parametrize(
    "entry",
    [
        {"b64_json": None, "url": "https://example.com/a.png"},
        {"url": "https://example.com/a.png", "b64_json": None},
    ],
)
def test_a_null_b64_json_takes_no_url_away(entry: dict[str, Any]) -> None:
    """SDK models write what is absent as null: the entry's own address must stay its only url."""
    out = _rewritten([json.dumps({"data": [entry]}).encode()])
    [made] = json.loads(out, object_pairs_hook=_unique)["data"]
    assert made["url"] == "https://example.com/a.png"


@pytest.mark.parametrize(
    "text",
    [
        b'{"data":{"b64_json":"QQ","url":null}}',
        b'{"data":{"0":{"b64_json":"QQ"}}}',
        b'[{"data":[{"b64_json":"QQ","url":null}]}]',
        b'{"data":[[{"b64_json":"QQ"}]]}',
        b'{"data":[{"data":[{"b64_json":"QQ","url":null}]}]}',
        b'{"x":{"data":[{"b64_json":"QQ"}]}}',
        b'{"b64_json":"QQ","url":null}',
        b'{"data":["b64_json"]}',
        b'{"data":[{"b64_jso":"QQ","B64_JSON":"QQ","b64_json ":"QQ"}]}',
    ],
)
def test_only_an_entry_of_data_is_rewritten(text: bytes) -> None:
    assert _rewritten([text]) == text


@pytest.mark.parametrize("kind", sorted(_MAGIC))
@pytest.mark.parametrize(
    ("character", "spelt"),
    [("/", "\\/"), ("/", "\\u002f"), ("/", "\\u002F"), ("+", "\\u002b"), ("+", "\\u002B")],
)
def test_the_type_is_seen_through_json_escapes(kind: str, character: str, spelt: str) -> None:
    picture = _picture(kind, b"").replace(character, spelt)
    out = json.loads(_rewritten([b'{"data":[{"b64_json":"' + picture.encode() + b'"}]}']))
    assert out["data"][0]["url"] == f"data:{kind};base64,{_picture(kind, b'')}"


def test_what_shows_no_type_is_called_a_png() -> None:
    for text in (b"", b"QUJDREVGRw==", b"!!!", b"Q", b"AAA!", b"A===", b"\\u00"):
        assert base64_text.image_type_of_base64(text) is None
        answer = b'{"data":[{"b64_json":"' + text.replace(b"\\u00", b"") + b'"}]}'
        out = json.loads(_rewritten([answer]))
        assert out["data"][0]["url"].startswith("data:image/png;base64,")


def test_an_answer_that_is_no_json_raises() -> None:
    with pytest.raises(json_scanner.ScanError):
        _rewritten([b"]"])


def test_a_data_url_leaves_while_its_picture_still_comes() -> None:
    urls = data_urls.DataUrls()
    urls.feed(b'{"data":[{"b64_json":"')
    sent = urls.feed(_picture("image/jpeg", bytes(600)).encode()[:400])
    assert sent.startswith(b"data:image/jpeg;base64,/9j/")
    assert urls.feed(b"A" * 70_000) == b"A" * 70_000
