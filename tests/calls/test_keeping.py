"""What is kept of a call where the disk is slow."""

import asyncio
import base64
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import orjson

from image_gateway.calls import conclusion, keeping
from image_gateway.calls.collecting import Collected
from image_gateway.calls.keeping import Keeping
from image_gateway.calls.picture_urls import UrlAnswer, UrlPicture
from image_gateway.core.calls.model import CallState
from image_gateway.core.codec.body_segments import Span
from image_gateway.edge.kept.folder import KeepFolder
from image_gateway.edge.spool import Spool, Spools
from tests.edge.kept.parts import NOW, Clock, bytes_of, identity, one, opened
from tests.parts.eventually import BOUND_SECONDS

PNG = b"\x89PNG\r\n\x1a\n" + bytes(2 * 1024 * 1024)
"""An answer of more than a MiB is written by several jobs."""


async def with_url(spool: Spool) -> Collected:
    """An answer that is one picture as a data URL, whose base64 lies in the spool."""
    head = b"data:image/png;base64,"
    await spool.write(head + base64.b64encode(PNG))
    url, text = Span(0, spool.size), Span(len(head), spool.size)
    picture = UrlPicture(spool.hold((url,)), spool.hold((text,)))
    return Collected.of_urls(UrlAnswer([spool.hold((b'"',)), picture, spool.hold((b'"',))]))


async def test_an_answer_that_the_disk_took_too_late_is_kept_for_the_next_one(
    tmp_path: Path,
) -> None:
    """Its client has data URLs by then; a retry must not be told that nobody knows the outcome."""
    go_on, real = threading.Event(), KeepFolder.create_answer

    def slow(folder: KeepFolder, call_id: str) -> int:
        go_on.wait(BOUND_SECONDS)
        return real(folder, call_id)

    async with opened(tmp_path / "calls", Clock(NOW)) as store:
        settings = SimpleNamespace(public_url="https://example.com", keep_seconds=3600)
        app: Any = SimpleNamespace(kept=store, settings=settings, prompt_key=b"key")
        kept = Keeping(app, identity())
        await kept.begin()
        with Spools(tmp_path, 1 << 30, 1 << 30) as spools, spools.open(paid=True) as spool:
            made = await with_url(spool)
            with (
                mock.patch.object(KeepFolder, "create_answer", slow),
                mock.patch.object(keeping, "_ADDRESS_SECONDS", 0.1),
            ):
                assert await kept.end_with_addresses(made) is None
                ending = asyncio.create_task(kept.end(conclusion.of_collected(made)))
                go_on.set()
                await ending
        kept.close()
        entry = await one(store, identity())
        assert entry.state is CallState.MADE
        address = orjson.loads(await bytes_of(entry) or b"")
        assert address.startswith("https://example.com/v1/images/files/")
        assert entry.pictures == (len(PNG),)
