"""JSON text, as odd as it may legally be, and some that is none."""

import re
from collections.abc import Iterable

from hypothesis import strategies as st

from image_gateway.core.codec import json_skeleton

SPACE = st.sampled_from(["", "", "", " ", "\n", "\t \r\n"])
_NUMBERS = st.sampled_from(["0", "-1", "1.50", "1e3", "12345678901", "true", "false", "null"])
_FRAGMENTS = st.sampled_from(
    [
        *"aZ0 7{}[],:/'",
        "é",
        "😀",
        "\x7f",
        '\\"',
        "\\\\",
        "\\/",
        "\\n",
        "\\u0041",
        "\\u0022",
        "\\u005c",
        "\\ud83d\\ude00",
        "b64_json",
        "data",
    ]
)
# What looks like a mark once it is parsed and written again.
_NUL_FRAGMENTS = st.sampled_from(["\\u0000", "\\u00000", '\\"\\u00000', '\\\\\\"\\u00001'])


def _text_of(fragments: Iterable[str]) -> str:
    return '"' + "".join(fragments) + '"'


def _stretched(inner: str, size: int) -> str:
    """``inner`` repeated to about ``size`` bytes of JSON text, escapes whole."""
    once = len(inner.encode())
    return inner * (size // once) + "x" * (size % once)


_SHORT = st.lists(_FRAGMENTS, max_size=6).map(_text_of)
LONG = st.builds(
    lambda fragments, size: _text_of([_stretched("".join(fragments), size)]),
    st.lists(_FRAGMENTS, min_size=1, max_size=3),
    st.integers(json_skeleton.LIFT_BYTES - 2, json_skeleton.LIFT_BYTES + 40),
)
STRINGS = st.one_of(_SHORT, _SHORT, LONG)
WITH_NUL = st.lists(st.one_of(_FRAGMENTS, _NUL_FRAGMENTS), max_size=6).map(
    lambda fragments: _text_of(["x", *fragments])
)


@st.composite
def _list_of(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    items = draw(st.lists(inner, max_size=4))
    padded = [draw(SPACE) + item + draw(SPACE) for item in items]
    return "[" + (",".join(padded) or draw(SPACE)) + "]"


@st.composite
def _object_of(draw: st.DrawFn, inner: st.SearchStrategy[str], keys: st.SearchStrategy[str]) -> str:
    names = draw(st.lists(keys, max_size=4))
    members = [
        draw(SPACE) + name + draw(SPACE) + ":" + draw(SPACE) + draw(inner) + draw(SPACE)
        for name in names
    ]
    return "{" + (",".join(members) or draw(SPACE)) + "}"


def texts(
    strings: st.SearchStrategy[str], keys: st.SearchStrategy[str] = _SHORT
) -> st.SearchStrategy[bytes]:
    values = st.recursive(
        st.one_of(strings, _NUMBERS),
        lambda inner: st.one_of(_list_of(inner), _object_of(inner, keys)),
        max_leaves=8,
    )
    whole = st.builds(lambda before, value, after: before + value + after, SPACE, values, SPACE)
    return whole.map(str.encode)


JSON_TEXTS = texts(STRINGS)

_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*)"(\s*:)?', re.DOTALL)


def value_strings(text: bytes) -> list[tuple[int, int]]:
    """Where the value strings of valid JSON stand, the quotes left out."""
    return [found.span(1) for found in _TOKEN.finditer(text) if found[2] is None]


BROKEN = st.lists(
    st.sampled_from([b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"a", b"\xff", b"\0", b"1 "]),
    max_size=24,
).map(b"".join)
