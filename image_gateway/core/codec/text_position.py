"""Lines and columns of a text that arrives in pieces, for people who look for a mistake in it."""

from typing import Final, NamedTuple, Self

_NOT_CONTINUATION: Final = bytes(byte for byte in range(256) if not 0x80 <= byte < 0xC0)


class TextPosition(NamedTuple):
    """A place in a UTF-8 text; lines, and the characters of a line, count from 1."""

    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"

    def after(self, text: bytes) -> Self:
        """The place behind ``text`` that begins here; takes no longer than a search in it."""
        newline = text.rfind(b"\n")
        if newline < 0:
            return self._replace(column=self.column + characters(text))
        return self._replace(
            line=self.line + text.count(b"\n"), column=1 + characters(text[newline + 1 :])
        )


def characters(text: bytes) -> int:
    """The number of characters that begin in a piece of UTF-8."""
    if text.isascii():
        return len(text)
    return len(text) - len(text.translate(None, _NOT_CONTINUATION))
