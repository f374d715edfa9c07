"""Counts pictures and usage in an Images answer while it is streamed through."""

from dataclasses import replace
from typing import Final

from image_gateway.core.codec import json_scanner, json_skeleton
from image_gateway.core.records.builder import Made

_LIMITS: Final = replace(json_scanner.IMAGES, tokens=json_scanner.IMAGES.skeleton_bytes)
"""An upstream's answer may hold more values than a client's body, because it is paid for.  The size
of its skeleton still bounds their number."""


class AnswerMeter:
    """Reads an answer in chunks; stops reading an answer that it cannot parse."""

    def __init__(self) -> None:
        self._skeleton: json_skeleton.JsonSkeleton | None = json_skeleton.JsonSkeleton(
            limits=_LIMITS, strict=False
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
        """The facts of the answer, None if it cannot be read; and whether it is complete.

        An answer that ends too early or is not JSON is not complete.
        """
        answer = None
        is_complete = True
        if self._skeleton is not None:
            try:
                answer = self._skeleton.close(mend=True)
            except json_scanner.ScanError:
                is_complete = False
        if not isinstance(answer, dict):
            return None, is_complete
        data = answer.get("data")
        # The number of entries counts, not the requested ``n``.
        pictures = len(data) if isinstance(data, list) else 0
        return Made.of(pictures, answer.get("usage"), answer), is_complete
