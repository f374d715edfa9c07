"""Counts pictures and usage in an Images answer while it goes by."""

from dataclasses import replace
from typing import Final

from image_gateway.core.codec import json_scanner, json_skeleton
from image_gateway.core.records.builder import Made

_ANSWERS: Final = replace(json_scanner.IMAGES, tokens=json_scanner.IMAGES.skeleton_bytes)
"""An upstream's answer may hold more values than a client's body: it is paid for.  What may remain
of it bounds them all the same."""


class AnswerMeter:
    """Reads an answer in chunks; one that it cannot read passes unread."""

    def __init__(self) -> None:
        self._skeleton: json_skeleton.JsonSkeleton | None = json_skeleton.JsonSkeleton(
            limits=_ANSWERS, strict=False
        )

    def __repr__(self) -> str:
        return f"<AnswerMeter {self._skeleton or 'blind'}>"

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        if self._skeleton is not None:
            try:
                self._skeleton.feed(chunk)
            except json_scanner.ScanError:
                self._skeleton = None

    def close(self) -> tuple[Made | None, bool]:
        """What the answer holds, None where it cannot be read; and whether it is whole.

        One that ends too early, or is not JSON at all, is not whole.
        """
        answer = None
        is_whole = True
        if self._skeleton is not None:
            try:
                answer = self._skeleton.close(mend=True)
            except json_scanner.ScanError:
                is_whole = False
        if not isinstance(answer, dict):
            return None, is_whole
        data = answer.get("data")
        # The entries count, whatever ``n`` asked for.
        pictures = len(data) if isinstance(data, list) else 0
        return Made.of(pictures, answer.get("usage"), answer), is_whole
