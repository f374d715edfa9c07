"""The works: what is asked for, how much of it at once, and what the upstream answers.

A work is data. It makes the bytes of its request and of its answer, and knows nothing of sockets,
peers or time. ``WORKS`` are the full ones; ``quick`` makes a small one of each, which shows that
everything runs and how the peers compare roughly.
"""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tests.parts import forms
from tests.parts.forms import Piece
from tests.parts.gateway import post
from tests.parts.upstream import PNG, images

PROMPT: Final = b"cat 0000000000000000"
"""Stands where each call puts a prompt of its own: equal calls are one purchase to the gateway."""

MARK: Final = b"MARK00000000"
"""Stands where the upstream puts the number of the purchase, within the picture's base64."""

# Base64 of a PNG's signature and enough zeros to end at a whole group.
_SIGNATURE: Final = base64.b64encode(PNG[:12])


@dataclass(frozen=True)
class Way:
    """How a peer is asked: the path before ``/images``, the key, and what it calls the model."""

    path: str = "/v1"
    secret: str = "none"
    model: str = "gpt-image-2"


@dataclass(frozen=True)
class Request:
    """The bytes of a call before and after its prompt."""

    before: bytes
    after: bytes


@dataclass(frozen=True)
class Answer:
    """What the upstream answers: a head and a body with the length told, or chunks."""

    pieces: Sequence[bytes]
    is_stream: bool


@dataclass(frozen=True)
class Work:
    """One kind of load.

    ``calls`` are made in one measure, ``at_once`` of them at a time; none is begun after
    ``seconds``, so that a slow peer makes fewer.  ``ramp`` spreads the first calls over so many
    seconds.  ``delay`` is the upstream's, in seconds.  ``expected`` seconds are what a measure
    usually takes, and only serve the estimate of the remaining time.
    """

    name: str
    title: str
    picture: int
    at_once: int
    calls: int
    rounds: int = 5
    seconds: float = 10
    expected: float = 2
    delay: float = 0
    ramp: float = 0
    upload: int = 0
    partials: int = 0
    is_retried: bool = False
    reads_slowly: bool = False
    starts_anew: bool = True
    """Whether the peers start anew for it, so that the peak of memory is its own."""

    @property
    def deadline(self) -> float:
        """Seconds after which a measure ends, and what is not answered counts as an error."""
        return self.seconds + self.ramp + 2 * self.delay + 60

    @property
    def base64_bytes(self) -> int:
        """Bytes of base64 in one whole answer."""
        return (self.partials + 1) * len(self._picture())

    def request(self, way: Way, **headers: str) -> Request:
        """The call as this way takes it."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.upload:
            picture = Piece("image", PNG + os.urandom(self.upload), "upload.png", "image/png")
            body = forms.body(("model", way.model), ("prompt", PROMPT.decode()), picture)
            named["content-type"] = forms.FORM
            whole = post(way.secret, body, f"{way.path}/images/edits", named)
        else:
            stream = b', "stream": true, "partial_images": %d' % self.partials
            body = b'{"model": "%b", "prompt": "%b"%b}' % (
                way.model.encode(),
                PROMPT,
                stream if self.partials else b"",
            )
            whole = post(way.secret, body, f"{way.path}/images/generations", named)
        before, after = whole.split(PROMPT)
        return Request(before, after)

    def answer(self) -> Answer:
        picture = self._picture()
        usage = b'"usage":%b' % json.dumps(images()["usage"]).encode()
        if not self.partials:
            body = b'{"created":1,"data":[{"b64_json":"%b"}],%b}' % (picture, usage)
            return Answer((body,), is_stream=False)
        kind = b"image_generation"
        partial = [
            b'event: %b.partial_image\ndata: {"type":"%b.partial_image","partial_image_index":%d,'
            b'"b64_json":"%b"}\n\n' % (kind, kind, index, picture)
            for index in range(self.partials)
        ]
        last = b'event: %b.completed\ndata: {"type":"%b.completed","b64_json":"%b",%b}\n\n'
        return Answer((*partial, last % (kind, kind, picture, usage)), is_stream=True)

    def _picture(self) -> bytes:
        """Base64 with a PNG's signature, the purchase's mark, and what cannot be compressed."""
        rest = max(0, self.picture * 4 // 3 - len(_SIGNATURE) - len(MARK)) // 4 * 3
        return _SIGNATURE + MARK + base64.b64encode(_noise(rest))


_made: dict[int, bytes] = {}


def _noise(length: int) -> bytes:
    """The same noise for each length: peers get the same picture."""
    if length not in _made:
        _made[length] = os.urandom(length)
    return _made[length]


_KB: Final = 1_000
_MB: Final = 1_000_000

WORKS: Final[Sequence[Work]] = (
    Work("W1", "a picture of 1 KB, 32 at once", _KB, 32, 1500, expected=4),
    Work("W2", "a picture of 2 MB, 16 at once", 2 * _MB, 16, 120, expected=2),
    Work(
        "W3",
        "a picture of 2 MB after 5 s, 200 at once",
        2 * _MB,
        200,
        200,
        rounds=3,
        expected=8,
        delay=5,
    ),
    Work("W4", "an edit: 4 MB up, 2 MB down, 8 at once", 2 * _MB, 8, 80, upload=4 * _MB),
    Work(
        "W5",
        "a picture of 2 MB after 30 s, 1000 in flight",
        2 * _MB,
        1000,
        1000,
        rounds=1,
        seconds=30,
        expected=58,
        delay=30,
        # A thousand calls of 30 s in flight are 33 a second; nearly all wait before the first ends.
        ramp=25,
    ),
    Work("W6", "a stream: three partial pictures and one, 2 MB each", 2 * _MB, 8, 40, partials=3),
    Work(
        "W7",
        "a retry of a call in flight, a picture of 2 MB",
        2 * _MB,
        8,
        64,
        expected=8,
        delay=0.3,
        is_retried=True,
    ),
    Work("L1", "one call at a time, 1 KB", _KB, 1, 200),
    Work("L2", "one call at a time, 2 MB", 2 * _MB, 1, 200, expected=4),
    Work(
        "slow-readers",
        "a picture of 2 MB, 200 clients that read 320 KB/s",
        2 * _MB,
        200,
        200,
        rounds=1,
        expected=12,
        reads_slowly=True,
    ),
)

USUAL: Final = tuple(work.name for work in WORKS if work.name != "slow-readers")
"""What is measured unless works are named."""

_QUICK: Final[Mapping[str, Mapping[str, Any]]] = {
    "W1": {"calls": 400, "seconds": 1.5},
    "W2": {"calls": 32, "seconds": 1.5},
    "W3": {
        "calls": 50,
        "at_once": 50,
        "delay": 1,
        "title": "a picture of 2 MB after 1 s, 50 at once",
        "starts_anew": True,
    },
    "W4": {"calls": 24, "seconds": 1.5},
    "W5": {
        "calls": 200,
        "at_once": 200,
        "delay": 2,
        "ramp": 1,
        "title": "a picture of 2 MB after 2 s, 200 in flight",
        "starts_anew": True,
    },
    "W6": {"calls": 8, "seconds": 1.5},
    "W7": {"calls": 16, "seconds": 1.5},
    "L1": {"calls": 40, "seconds": 1.5},
    "L2": {"calls": 30, "seconds": 1.5},
    "slow-readers": {"calls": 50, "at_once": 50, "starts_anew": True},
}


def quick(work: Work) -> Work:
    """A small form of the work, one round of it; only where memory counts the peers start anew."""
    changed = replace(work, **{"starts_anew": False, **_QUICK[work.name]}, rounds=1)
    return replace(changed, expected=max(1.0, changed.delay + changed.ramp + 1))
