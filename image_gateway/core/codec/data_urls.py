"""Turns the pictures of an answer into data URLs while the answer streams."""

from dataclasses import dataclass
from typing import Final

from image_gateway.core.codec import base64_text, json_scanner

_MOST_FOUND: Final = 1000


@dataclass(frozen=True, slots=True)
class DataUrl:
    """Where a data URL is in the text that was made: bytes ``start`` to ``stop``, with its base64
    from ``base64_start`` on.
    """

    start: int
    base64_start: int
    stop: int


class DataUrls:
    """Rewrites ``data[].b64_json`` to ``data[].url`` with a data URL while the answer streams.

    In each entry, a string value gets the key ``url`` and a null the key ``b64_json``, whichever
    key it had, so that a null never overwrites the picture.  The MIME type comes from the first
    bytes of each picture, because the answer names the format that was requested, which may not be
    the format that was made.
    """

    def __init__(self) -> None:
        self._scanner = json_scanner.Scanner(self, json_scanner.ANSWER)
        self.found: list[DataUrl] = []
        """The data URLs that were made, up to a thousand."""
        self._out: list[bytes] = []
        self._size = 0
        self._begun: tuple[int, int] | None = None
        self._after_key = False
        self._pending = b""
        self._sniffing = False
        self._head = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """The bytes to send for ``chunk``; raises ``ScanError`` if the answer is not JSON."""
        self._scanner.feed(chunk)
        out = b"".join(self._out)
        self._out.clear()
        return out

    def structure(self, data: bytes) -> None:
        if not self._after_key:
            self._put(data)
            return
        self._pending += data
        value = self._pending.lstrip(b" \t\r\n:")
        if value:
            self._put(b'"url"' if value.startswith(b'"') else b'"b64_json"')
            self._put(self._pending)
            self._after_key = False
            self._pending = b""

    def key(self, data: bytes) -> None:
        match self._scanner.path():
            case ("data", int(), "b64_json" | "url"):
                self._after_key = True
            case _:
                self._put(data)

    def text_start(self, offset: int) -> None:  # noqa: ARG002 - part of ScanHandler
        match self._scanner.path():
            case ("data", int(), "b64_json"):
                self._sniffing = True

    def text(self, chunk: bytes, start: int, stop: int) -> None:
        if not self._sniffing:
            self._put(chunk[start:stop])
            return
        self._head += chunk[start:stop]
        if base64_text.shows_type(bytes(self._head)):
            self._start_url()

    def text_stop(self) -> None:
        if self._sniffing:
            self._start_url()
        if self._begun is not None:
            if len(self.found) < _MOST_FOUND:
                self.found.append(DataUrl(*self._begun, self._size))
            self._begun = None

    def _start_url(self) -> None:
        head = bytes(self._head)
        # Without a known signature, assume PNG, the default output format.
        mime_type = base64_text.image_type_of_base64(head) or "image/png"
        start = self._size
        self._put(f"data:{mime_type};base64,".encode())
        self._begun = (start, self._size)
        self._put(head)
        self._head.clear()
        self._sniffing = False

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._size += len(data)
