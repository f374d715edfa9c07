"""Parsers that check a request's body while it arrives and write it to the spool.

An error is found at the byte that breaks the body, so that a hostile body costs little; large
values are only spooled.  Of a JSON body all is spooled, of a multipart body only the files.
"""

import asyncio
import codecs
from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

from image_gateway.core.codec import compression, json_scanner, json_skeleton, multipart
from image_gateway.core.errors import Refusal
from image_gateway.core.request import forms
from image_gateway.core.request.catalogue import Catalogue
from image_gateway.core.request.forms import RawParameters
from image_gateway.core.request.intent_signals import IntentSignalReader
from image_gateway.edge import turns
from image_gateway.edge.spool import Spool
from image_gateway.edge.turns import Turns


class BodyParser(Protocol):
    """Reads one body.  Both methods raise ``Refusal``."""

    async def write(self, chunk: bytes) -> None:
        """Read the next bytes; also raises ``SpoolFullError``."""

    def close(self, catalogue: Catalogue, *, takes_pictures: bool) -> RawParameters:
        """The parameters of the whole body."""


class _Json:
    """Checks UTF-8 and scans JSON text.  Both methods raise ``Refusal``."""

    def __init__(self, skeleton: json_skeleton.JsonSkeleton) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._skeleton = skeleton

    def feed(self, chunk: bytes) -> None:
        try:
            self._decoder.decode(chunk)
            self._skeleton.feed(chunk)
        except (UnicodeDecodeError, json_scanner.ScanError) as error:
            raise _broken(error) from None

    def close(self) -> tuple[object, Sequence[json_skeleton.LiftedString]]:
        try:
            self._decoder.decode(b"", final=True)
            return self._skeleton.close(), self._skeleton.lifted
        except (UnicodeDecodeError, json_scanner.ScanError) as error:
            raise _broken(error) from None


class JsonBodyParser:
    """A JSON body: scanned and spooled."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._json = _Json(
            json_skeleton.JsonSkeleton(forms.keep_prompt, forms.LONGEST_PROMPT_BYTES, digests=True)
        )
        self._turns = Turns()

    def __repr__(self) -> str:
        return f"<JsonBodyParser {self._spool!r}>"

    async def write(self, chunk: bytes) -> None:
        for piece in turns.pieces(chunk):
            self._json.feed(piece)
            await self._turns.give()
        await self._spool.write(chunk)

    def close(self, catalogue: Catalogue, *, takes_pictures: bool) -> RawParameters:  # noqa: ARG002 - JSON
        body, lifted = self._json.close()
        return forms.from_json(body, lifted, takes_pictures=takes_pictures)


_JSON_STARTS: Final = frozenset({b"{", b"[", b" ", b"\t", b"\r", b"\n"})


class IntentBodyParser:
    """A body on a Responses path: spooled unchanged, while its intent signals are read.

    A body whose signals cannot be read is refused: a text API may read more (UTF-16, invalid
    UTF-8), and must not get a call that the gateway would refuse.  ``decoder`` opens a compressed
    body.
    """

    def __init__(self, spool: Spool, decoder: compression.Decoder | None) -> None:
        self._spool = spool
        self._decoder = decoder
        self._reader = IntentSignalReader()
        self.signals = self._reader.signals

    def __repr__(self) -> str:
        return f"<IntentBodyParser {self.signals!r}>"

    async def write(self, chunk: bytes) -> None:
        """Read the next bytes; raises ``Refusal`` and ``SpoolFullError``."""
        if self._decoder is None:
            await self._read(chunk)
        elif self._spool.size == 0 and chunk[:1] in _JSON_STARTS:
            # A server that does not look at the encoding would read JSON in it.
            raise Refusal("invalid_body", "The body is not compressed. Leave out the encoding.")
        else:
            async for piece in _opened(self._decoder, chunk):
                await self._read(piece)
        await self._spool.write(chunk)

    async def _read(self, piece: bytes) -> None:
        for part in turns.pieces(piece):
            try:
                self._reader.feed(part)
            except json_scanner.ScanError as error:
                raise _broken(error) from None
            await asyncio.sleep(0)

    def close(self) -> None:
        """The body has ended; raises ``Refusal`` if a compressed body is not whole."""
        if self._decoder is not None:
            _close(self._decoder)


async def write_opened(spool: Spool, decoder: compression.Decoder, opened: Spool) -> None:
    """Write a compressed body, opened, into another spool; raises as ``IntentBodyParser.write``."""
    async for chunk in spool.whole().play():
        async for piece in _opened(decoder, chunk):
            await opened.write(piece)
    _close(decoder)


async def _opened(decoder: compression.Decoder, chunk: bytes) -> AsyncIterator[bytes]:
    try:
        for piece in decoder.feed(chunk):
            yield piece
            # A small chunk may hold many pieces, each up to a millisecond of work.
            await asyncio.sleep(0)
    except compression.TooLargeError as error:
        raise Refusal(
            "request_too_large", f"Too large a request: {error} once it is opened. Send less."
        ) from None
    except compression.CompressionError as error:
        raise _not_opened(error) from None


def _close(decoder: compression.Decoder) -> None:
    try:
        decoder.close()
    except compression.CompressionError as error:
        raise _not_opened(error) from None
    if decoder.has_rest:
        # Other readers may find a second body in it.
        raise Refusal("invalid_body", "Bytes follow the compressed body. Send only the body.")


def _not_opened(error: compression.CompressionError) -> Refusal:
    return Refusal("invalid_body", f"The body cannot be opened: {error}. Send it plain.")


async def reread(spool: Spool) -> tuple[object, Sequence[json_skeleton.LiftedString]]:
    """The skeleton of a spooled body and its long strings, with digests; raises ``Refusal``."""
    json = _Json(json_skeleton.JsonSkeleton(limits=json_scanner.INTENT, digests=True))
    async for piece in spool.whole().play():
        for part in turns.pieces(piece):
            json.feed(part)
            # A body in memory never waits for the disk.
            await asyncio.sleep(0)
    return json.close()


class MultipartBodyParser:
    """A multipart body: fields stay in memory, the data of files is spooled."""

    def __init__(self, spool: Spool, boundary: bytes, limits: multipart.PartLimits) -> None:
        self._spool = spool
        self._reader = multipart.MultipartReader(boundary, limits)

    def __repr__(self) -> str:
        return f"<MultipartBodyParser {self._reader!r}>"

    async def write(self, chunk: bytes) -> None:
        for piece in self._reader.feed(chunk):
            await self._spool.write(piece)

    def close(self, catalogue: Catalogue, *, takes_pictures: bool) -> RawParameters:
        parts = self._reader.close()
        return forms.from_parts(parts, catalogue, takes_pictures=takes_pictures)


def _broken(error: UnicodeDecodeError | json_scanner.ScanError) -> Refusal:
    if isinstance(error, UnicodeDecodeError):
        return Refusal("invalid_body", "The body is not valid UTF-8. Encode the JSON as UTF-8.")
    return Refusal("invalid_body", str(error))
