"""Server-sent events of upstreams (``core.codec.sse``)."""

from collections.abc import Iterable

from image_gateway.core.codec import sse
from image_gateway.core.codec.sse import EventSplitter, Piece
from tests.fuzz.values import Values, cut

Frame = tuple[bytes, bytes, str | None]
"""Its bytes as they are passed on, its data, and its name."""


def frames(pieces: Iterable[bytes]) -> tuple[list[Frame], Frame]:
    """The whole frames, and what a cut stream left."""
    splitter = EventSplitter()
    found: list[Frame] = []
    raw, data = bytearray(), bytearray()

    def take(parts: Iterable[Piece]) -> None:
        for part in parts:
            assert not part.data or part.raw.endswith(part.data.removeprefix(b"\n"))
            raw.extend(part.raw)
            data.extend(part.data)
            if part.ends:
                found.append((bytes(raw), bytes(data), part.event))
                raw.clear()
                data.clear()

    for piece in pieces:
        take(splitter.feed(piece))
    left = bytes(raw), bytes(data), None
    take(splitter.close())
    assert not splitter.begun
    return found, left


def by_the_book(text: bytes) -> list[tuple[bytes, str | None]]:
    """Data and name of each whole frame, from the whole text (WHATWG HTML, 9.2.6)."""
    lines = text.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found: list[tuple[bytes, str | None]] = []
    data: list[bytes] = []
    name: str | None = None
    is_inside = False
    for line in lines.split(b"\n")[:-1]:
        field, colon, value = line.partition(b":")
        if not line:
            if is_inside:
                found.append((b"\n".join(data), name))
            data, name, is_inside = [], None, False
        elif field or not colon:
            is_inside = True
            if field == b"data" and colon:
                data.append(value.removeprefix(b" "))
            elif field == b"event" and colon:
                # A name is cut where it is longer than anybody's.
                name = (
                    line[: len(b"event:") + 250][len(b"event:") :]
                    .removeprefix(b" ")
                    .decode("utf-8", "replace")
                )
    return found


def check(data: bytes) -> None:
    """Any cut gives the same frames, those of the specification, and nothing is made up."""
    values = Values(data)
    seed = values.byte()
    text = values.rest()
    whole = frames([text])
    assert frames(cut(text, seed)) == whole
    found, left = whole
    expected = by_the_book(text)
    # The end of a stream ends its last frame, which a browser would drop.
    assert [(data, name) for _, data, name in found][: len(expected)] == expected
    assert len(found) - len(expected) <= 1
    assert sum(len(raw) for raw, _, _ in found) <= len(text) + 2
    assert len(left[0]) <= len(text)
    for raw, _, _ in found:
        assert b"\r" not in raw
        assert raw.endswith(b"\n\n")
        # What is passed on is read by the next one as it was here; a BOM is one at the start only.
        again, _ = frames([b"\n" + raw])
        assert [each[1:] for each in again] == [(d, n) for r, d, n in found if r == raw][:1]
    decided = sse.are_events(text)
    for end in range(len(text)):
        early = sse.are_events(text[:end])
        assert early is None or early == decided
