"""The loop that the programs in this folder share: an order as one line of JSON on stdin, what its
user saw as one line of JSON on stdout, until stdin ends.

An order: {do, baseURL, apiKey, model, prompt, pictures, then, stream, retries, options}.  ``do``
names an operation of the program; ``pictures`` are paths of files; ``then`` is what is asked in a
second turn; ``retries`` None leaves the client its own default.  What was seen: {pictures,
partials, usage, error} of the last turn, with pictures as base64.
"""

import base64
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

Order = dict[str, Any]
Operation = Callable[[Order], Awaitable[dict[str, Any]]]


def files_of(order: Order) -> list[bytes]:
    return [Path(path).read_bytes() for path in order["pictures"]]


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def retries_of(order: Order) -> dict[str, Any]:
    """The argument that most clients take."""
    return {} if order["retries"] is None else {"max_retries": order["retries"]}


def _described(error: Exception) -> dict[str, Any]:
    return {
        "name": type(error).__name__,
        "message": str(error),
        "status": getattr(error, "status_code", None),
        "code": getattr(error, "code", None),
    }


async def serve(operations: Mapping[str, Operation]) -> None:
    # A library's words on stdout must not mix with what was seen.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        order = json.loads(line)
        seen = {"pictures": [], "partials": 0, "usage": None, "error": None}
        try:
            seen |= await operations[order["do"]](order)
        except Exception as error:  # noqa: BLE001 - whatever it is, the user saw it
            seen["error"] = _described(error)
        out.write(json.dumps(seen) + "\n")
        out.flush()
