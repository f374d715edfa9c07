"""Serves a picture to anyone who has its address, without a key.

The address is a secret (``core.calls.addresses``): it stands in no record, error or log line, so
such a request leaves a count and nothing else.  A browser that shows the picture runs nothing in it
and tells no other site of the address, and no shared cache keeps it.  All addresses that lead
nowhere get the same answer, whether they are forged, over or unknown.
"""

import contextlib
import hashlib
import logging
import time
from collections.abc import Mapping
from typing import Final

from image_gateway.context import AppContext
from image_gateway.core.calls import addresses
from image_gateway.core.calls.names import CallSecrets
from image_gateway.core.codec import base64_text, byte_range
from image_gateway.core.errors import Refusal
from image_gateway.core.headers import Headers
from image_gateway.edge.client.downstream import ClientLeftError, Downstream
from image_gateway.edge.kept.disk import DiskTroubleError
from image_gateway.edge.kept.picture import KeptPicture
from image_gateway.exchange import answers, cors

METHODS: Final = "GET, HEAD, OPTIONS"

_SVG: Final = "image/svg+xml"
_UNKNOWN: Final = "application/octet-stream"
_ALWAYS: Final = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "cross-origin",
    # An SVG may hold scripts and links; styles of its own it needs.
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "sandbox",
}

_log = logging.getLogger(__name__)


class PictureFiles:
    """The addresses of pictures."""

    def __init__(self, app: AppContext) -> None:
        self._kept = app.kept
        self._metrics = app.metrics
        self._allows_pages = bool(app.settings.cors_origins)
        self._key = CallSecrets.of(app.prompt_key).addresses

    def __repr__(self) -> str:
        return "<PictureFiles>"

    async def serve(
        self, method: str, path: str, downstream: Downstream, refusal: Refusal | None
    ) -> None:
        """Answer a request; ``refusal``: why it cannot be served, whatever it asks for."""
        name = path.removeprefix(addresses.PATH)
        try:
            with contextlib.suppress(ClientLeftError):
                try:
                    if refusal is not None:
                        raise refusal
                    await self._serve(method, name, downstream)
                except Refusal as reason:
                    await _refuse(downstream, reason)
                except DiskTroubleError:
                    await _refuse(downstream, answers.kept_unavailable())
        except OSError as error:
            # The disk failed in the middle of a picture.
            _log.warning("a kept picture could not be read: %s", error.strerror or "it is cut off")
            downstream.break_off()
        finally:
            self._metrics.observe_picture(downstream.status)

    async def _serve(self, method: str, name: str, downstream: Downstream) -> None:
        match method:
            case "OPTIONS":
                await self._serve_options(downstream)
            case "GET" | "HEAD":
                await self._serve_picture(name, downstream, is_head=method == "HEAD")
            case _:
                raise _method_not_allowed()

    async def _serve_options(self, downstream: Downstream) -> None:
        fields = {"allow": METHODS}
        if self._allows_pages:
            fields |= cors.preflight(downstream.headers, "GET, HEAD")
        await downstream.start(204, fields)
        await downstream.finish()

    async def _serve_picture(self, name: str, downstream: Downstream, *, is_head: bool) -> None:
        address = addresses.read(self._key, name, time.time())
        picture = None
        if address is not None:
            picture = await self._kept.picture(address.call_id, address.index)
        if address is None or picture is None:
            raise _not_found()
        with picture:
            etag = f'"{hashlib.sha256(name.encode("ascii")).hexdigest()[:32]}"'
            left = min(address.end, picture.expires_at) - time.time()
            fields = {
                **_ALWAYS,
                "etag": etag,
                "cache-control": f"private, max-age={max(int(left), 0)}",
            }
            asked = downstream.headers
            if _is_known(asked, etag):
                await downstream.start(304, fields)
                await downstream.finish()
                return
            fields |= _of_content(picture, address.index)
            wanted = None if is_head else asked.get("range")
            selection = byte_range.select(picture.length, wanted, asked.get("if-range"), etag)
            fields["content-length"] = str(selection.stop - selection.start)
            if selection.content_range is not None:
                fields["content-range"] = selection.content_range
            await downstream.start(selection.status, fields)
            if not is_head:
                await downstream.send_body(picture.part(selection.start, selection.stop))
            await downstream.finish()


def _of_content(picture: KeptPicture, index: int) -> Mapping[str, str]:
    """The headers that say what the picture is: by its own bytes, whatever its address says."""
    media_type = base64_text.image_type(picture.head)
    # Without a name of ours, a saved file would have the address as its name.
    name = f"image-{index + 1}"
    shows = media_type not in {None, _SVG}
    kind = f"inline; filename={name}" if shows else f"attachment; filename={name}"
    return {
        "content-type": media_type or _UNKNOWN,
        "content-disposition": kind,
        "accept-ranges": "bytes",
    }


def _is_known(headers: Headers, etag: str) -> bool:
    """Whether the client has the picture already (RFC 9110, 13.1.2)."""
    tags = [tag.strip() for value in headers.all("if-none-match") for tag in value.split(",")]
    return any(tag == "*" or tag.removeprefix("W/") == etag for tag in tags)


async def _refuse(downstream: Downstream, refusal: Refusal) -> None:
    fields = {
        **refusal.headers(),
        **_ALWAYS,
        "content-type": "application/json",
        "cache-control": "no-store",
    }
    await downstream.answer(refusal.spec.status, fields, refusal.body())


def _not_found() -> Refusal:
    return Refusal(
        "picture_not_found",
        "There is no picture at this address, or no longer. Addresses end after a while; ask for "
        "a picture again, or keep a copy in time.",
    )


def _method_not_allowed() -> Refusal:
    return Refusal("method_not_allowed", "Unsupported method. Use GET.", headers={"allow": METHODS})
