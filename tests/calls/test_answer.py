"""The answer of a call, as its clients read it while it grows."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from image_gateway.calls.answer import Answer
from image_gateway.edge.spool import SpooledBody, Spools


class Stuck(SpooledBody):
    """A frame whose writer is cancelled half-way."""

    async def play(self) -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.Event().wait()


async def test_no_client_gets_half_a_frame_of_a_writer_that_was_cancelled(tmp_path: Path) -> None:
    """The pictures that there are follow it, at a drain."""
    with Spools(tmp_path, 1 << 20, 1 << 20) as spools:
        answer = Answer(spools)
        reader = answer.reader(is_late=False)
        with answer.kept:
            await answer.add_bytes(b"one ")
            with spools.open() as spool:
                stuck = asyncio.create_task(answer.add(Stuck(spool, (b"half a frame",))))
                await asyncio.sleep(0)
                stuck.cancel()
                await asyncio.wait([stuck])
            await answer.add_bytes(b"two ")
            await answer.add_bytes(b"three")
            kept = b"".join([piece for part in answer.parts() async for piece in part.play()])
            got = b""
            while (frames := reader.next()) is not None:
                got += b"".join([piece async for piece in frames.play()])
        assert (kept, got, answer.frames) == (b"one two three", b"one two three", 3)
