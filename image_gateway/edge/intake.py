"""The way of a request's body into the spool, checked while it comes.

What is broken is noticed at the byte that breaks it, so that a hostile body costs no more than it
must; what is large is only passed on.
"""

import codecs

from image_gateway.core import request, scan
from image_gateway.edge.spool import Spool


class JsonIntake:
    """Where a JSON body goes: through the UTF-8 check and the scanner into the spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._skeleton = scan.Skeleton(request.keep_prompt, request.LONGEST_PROMPT_BYTES)

    @property
    def lifted(self) -> list[scan.Lifted]:
        return self._skeleton.lifted

    async def write(self, chunk: bytes) -> None:
        """Raises ``UnicodeDecodeError``, ``ScanError`` and ``SpoolFullError``."""
        self._decoder.decode(chunk)
        self._skeleton.feed(chunk)
        await self._spool.write(chunk)

    def close(self) -> object:
        """The body's skeleton, parsed; raises like ``write``."""
        self._decoder.decode(b"", final=True)
        return self._skeleton.close()
