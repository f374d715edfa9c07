"""The official SDK of JavaScript as a client: a script on Node in a process of its own, the
pictures that it is given, and the forms that arrive.
"""

import asyncio
import base64
import hashlib
import json
import os
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parts.upstream import Call

FOLDER = Path(__file__).parents[1] / "clients" / "node"
SCRIPT_SECONDS = 60.0
# What the SDK and Node read from their surroundings would change what a test sees.
_FOREIGN = ("OPENAI_", "AZURE_OPENAI_", "NODE_")


async def run(script: str, order: Any, seconds: float = SCRIPT_SECONDS) -> Any:
    """Give ``order`` to a script of ``FOLDER`` as JSON; gives the JSON that it says."""
    assert (FOLDER / "node_modules" / "openai").is_dir(), "not installed: run scripts/node-modules"
    process = await asyncio.create_subprocess_exec(
        "node",
        str(FOLDER / script),
        env={k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds):
            said, words = await process.communicate(json.dumps(order).encode())
    except TimeoutError:
        raise AssertionError(f"{script} did not end within {seconds} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, words.decode()
    return json.loads(said)


@dataclass(frozen=True)
class Sent:
    """A picture in a file, and the way in which it is handed to the SDK."""

    path: Path
    by: str
    type: str

    @property
    def parameter(self) -> dict[str, Any]:
        name = self.path.name
        return {"file": {"path": str(self.path), "by": self.by, "name": name, "type": self.type}}

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


HEADS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/webp": b"RIFF\x24\x00\x00\x00WEBP",
}


def draw(folder: Path, by: str, kind: str = "image/png", size: int = 5_000) -> Sent:
    """A picture that only begins like one, and goes on with whatever could break a form."""
    number = len(list(folder.iterdir()))
    path = folder / f"picture {number}.{kind.rpartition('/')[2]}"
    traps = b"\r\n--\r\n------formdata-undici-0\r\n--openai-\r\n\r\n--"
    path.write_bytes(HEADS[kind] + traps + random.Random(number).randbytes(size) + b"\r\n")
    return Sent(path, by, kind)


@dataclass(frozen=True)
class Part:
    """One part of a multipart body that arrived upstream; ``value`` of a file is its digest."""

    name: str
    value: str
    type: str | None = None


def parts(call: Call) -> list[Part]:
    """The parts of a multipart body, in order."""
    kind, _, boundary = call.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/form-data"
    line = b"--" + boundary.encode()
    assert call.body.startswith(line + b"\r\n")
    assert call.body.endswith(b"\r\n" + line + b"--\r\n")
    found = []
    for part in (b"\r\n" + call.body).split(b"\r\n" + line)[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        lines = head.decode("ascii").split("\r\n")[1:]
        fields = dict(each.split(": ", 1) for each in lines)
        named = re.fullmatch(
            r'form-data; name="([^"]+)"(; filename="[^"]+")?', fields.pop("Content-Disposition")
        )
        assert named is not None
        if named[2] is None:
            assert fields == {}
            found.append(Part(named[1], data.decode()))
        else:
            digest = hashlib.sha256(data).hexdigest()
            found.append(Part(named[1], digest, fields.pop("Content-Type")))
            assert fields == {}
    return found


def digest_of(data_url: str, kind: str) -> str:
    """The digest of the picture in a data URL of this kind."""
    prefix, _, text = data_url.partition(",")
    assert prefix == f"data:{kind};base64"
    return hashlib.sha256(base64.b64decode(text, validate=True)).hexdigest()
