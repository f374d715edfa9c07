"""Counts pictures and usage in an Images answer while it is streamed through."""

from dataclasses import replace
from typing import Final

from image_gateway.core import untrusted
from image_gateway.core.codec import json_scanner, json_skeleton
from image_gateway.core.records.builder import Made

_LIMITS: Final = replace(json_scanner.ANSWER, depth=1024)
"""Nothing is written from it, so it may be as deep as orjson reads."""


class _AnswerSkeleton(json_skeleton.JsonSkeleton):
    """The skeleton of an Images answer; notices its first picture while it arrives."""

    def __init__(self) -> None:
        super().__init__(limits=_LIMITS, strict=False, mends=True)
        self.has_picture = False
        self._in_picture = False

    def text_start(self, offset: int) -> None:
        super().text_start(offset)
        match self._scanner.path():
            case ("data", int(), "b64_json" | "url"):
                self._in_picture = True

    def text(self, chunk: bytes, start: int, stop: int) -> None:
        super().text(chunk, start, stop)
        self.has_picture |= self._in_picture and stop > start

    def text_stop(self) -> None:
        super().text_stop()
        self._in_picture = False


class AnswerMeter:
    """Reads an answer in chunks; stops reading an answer that it cannot parse."""

    def __init__(self) -> None:
        self._skeleton: _AnswerSkeleton | None = _AnswerSkeleton()
        self._has_picture = False
        self._is_too_large = False
        self._begins = b""

    def __repr__(self) -> str:
        return f"<AnswerMeter {self._skeleton or 'blind'}>"

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        self._begins = self._begins or chunk.lstrip()[:1]
        if self._skeleton is not None:
            skeleton = self._skeleton
            try:
                skeleton.feed(chunk)
            except json_scanner.ScanError as error:
                is_limit = isinstance(error, json_scanner.ScanLimitError)
                self._is_too_large = is_limit and not isinstance(error, json_scanner.ScanDepthError)
                self._skeleton = None
            self._has_picture = skeleton.has_picture

    @property
    def may_have_picture(self) -> bool:
        """Whether a picture has begun, or the answer is too large beside its pictures to tell."""
        return self._has_picture or self._is_too_large

    @property
    def is_no_answer(self) -> bool:
        """Whether the bytes so far are not those of a JSON object that may have a picture."""
        is_broken = self._skeleton is None and not self.may_have_picture
        return is_broken or self._begins not in {b"", b"{"}

    def close(self) -> tuple[Made | None, bool]:
        """The facts of the answer, None if it cannot be read; and whether it is complete.

        An answer that ends too early or is not JSON is not complete.
        """
        answer = None
        is_complete = True
        if self._skeleton is not None:
            try:
                answer = self._skeleton.close()
            except json_scanner.ScanError:
                is_complete = False
        if not isinstance(answer, dict):
            return None, is_complete
        data = answer.get("data")
        # The entries that hold a picture count, not the requested ``n``.
        pictures = sum(map(_holds_picture, data if isinstance(data, list) else ()))
        return Made.of(pictures, answer.get("usage"), answer), is_complete


def _holds_picture(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    return bool(untrusted.text(entry.get("b64_json")) or untrusted.text(entry.get("url")))
