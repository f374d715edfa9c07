"""The faults of upstreams, and what each costs: how many pictures a call may buy.

Every account of a key has the same fault, which is the worst case.  A call that reaches an upstream
counts as a purchase if a picture may have been made for it, whatever the client reads.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.parts.upstream import Call, Script, answers, completed, frame, images, streams

DIALECTS = ("openai", "azure", "codex")
LATE_SECONDS = 31
"""A little more than ``failover.OVERLOAD_SECONDS``."""


@dataclass(frozen=True)
class Cost:
    """What one fault costs at one dialect.

    ``asked``: calls that reached an upstream for one POST.  ``post`` and ``sdk``: how many of them
    may have made a picture, for one POST and for one call of the official SDK with its defaults.
    """

    asked: int
    post: int
    sdk: int

    def __str__(self) -> str:
        return f"{self.post} of {self.asked}; {self.sdk}"


RETURNED = Cost(1, 0, 0)
"""The answer says that nothing was made, and any account would say so."""
NEXT = Cost(2, 0, 0)
"""The answer says that nothing was made, and another account is asked."""
FINAL = Cost(1, 1, 1)
"""A picture may exist: nobody asks again."""
ONCE_MORE = Cost(2, 2, 2)
"""A picture may exist behind a proxy on the way: one further account is asked."""


@dataclass(frozen=True)
class Fault:
    """What an upstream does, and the costs by dialect; ``script`` None: it is not there.

    ``is_silent``: only a deadline ends it.
    """

    name: str
    script: Script | None
    costs: Mapping[str, Cost]
    is_silent: bool = False

    def buys(self, dialect: str) -> bool:
        """Whether a picture may have been made for a call that reached the upstream."""
        return self.costs[dialect].post > 0


def error(code: str | None = None, message: str = "no", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": None, "param": None, "code": code, **fields}}


PAGE: Mapping[str, str] = {"content-type": "text/html"}
HTML = b"<html>an error</html>"
WHOLE = json.dumps(images()).encode()
BEGUN = WHOLE[: WHOLE.index(b"iVBOR") + 10]


async def resets(call: Call) -> None:
    call.writer.transport.abort()


async def cuts_its_head(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-ty")


async def silent(call: Call) -> None:
    await call.gone()


async def silent_after_its_head(call: Call) -> None:
    await call.head(200, {"content-length": "500"})
    await call.gone()


async def speaks_no_http(call: Call) -> None:
    await call.send(b"220 mail.example.com ESMTP\r\n")


async def floods(call: Call) -> None:
    while True:
        await call.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000)


async def late(call: Call) -> None:
    await asyncio.sleep(LATE_SECONDS)
    await call.answer(503, error("server_is_overloaded"), {"retry-after": "1"})


def cut(data: bytes, length: int = len(WHOLE)) -> Script:
    async def script(call: Call) -> None:
        await call.head(200, {"content-length": str(length)})
        await call.send(data)

    return script


def same(cost: Cost) -> Mapping[str, Cost]:
    return dict.fromkeys(DIALECTS, cost)


def but_codex(cost: Cost, codex: Cost) -> Mapping[str, Cost]:
    return {**same(cost), "codex": codex}


def refuses(status: int, body: Any = None, **headers: str) -> Script:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answers(status, error() if body is None else body, named)


FAULTS: Sequence[Fault] = (
    Fault("the connection is refused", None, same(Cost(0, 0, 0))),
    Fault("reset before the answer", resets, same(FINAL)),
    Fault("closed within the head", cuts_its_head, same(FINAL)),
    Fault("no HTTP", speaks_no_http, same(FINAL)),
    Fault("endless 103", floods, same(FINAL)),
    Fault("silence", silent, same(FINAL), is_silent=True),
    Fault("silence after the head", silent_after_its_head, same(FINAL), is_silent=True),
    Fault("cut before the picture", cut(WHOLE[:20]), same(FINAL)),
    Fault("cut within the picture", cut(BEGUN), same(FINAL)),
    Fault("400 about the request", refuses(400, error("moderation_blocked")), same(RETURNED)),
    Fault("400 about the account", refuses(400, error("billing_hard_limit_reached")), same(NEXT)),
    Fault("400 about the form", refuses(400, error("unsupported_content_type")), same(NEXT)),
    Fault("400 that nobody knows", refuses(400), same(RETURNED)),
    Fault("401", refuses(401), same(NEXT)),
    Fault("402", refuses(402), same(NEXT)),
    Fault("403", refuses(403), same(NEXT)),
    Fault("404 about the model", refuses(404, error("model_not_found")), same(NEXT)),
    Fault("404 that nobody knows", refuses(404), same(RETURNED)),
    Fault("408", refuses(408), same(FINAL)),
    Fault("409", refuses(409), same(FINAL)),
    Fault("413", refuses(413), same(RETURNED)),
    Fault("415", refuses(415), same(NEXT)),
    Fault("422", refuses(422), same(RETURNED)),
    Fault("425", refuses(425), same(RETURNED)),
    Fault("429", refuses(429), same(NEXT)),
    Fault("429 with a wait", refuses(429, retry_after="1"), same(NEXT)),
    Fault("500 in OpenAI's shape", refuses(500), but_codex(FINAL, NEXT)),
    Fault("500 as a page", answers(500, HTML, PAGE), but_codex(FINAL, NEXT)),
    Fault("501", refuses(501), but_codex(FINAL, NEXT)),
    Fault("502", answers(502, HTML, PAGE), but_codex(FINAL, ONCE_MORE)),
    Fault("503 with a wait", answers(503, b"", {"retry-after": "1"}), same(NEXT)),
    Fault("503 as a page", answers(503, HTML, PAGE), but_codex(FINAL, NEXT)),
    Fault("503 after 31 s", late, same(FINAL)),
    Fault("504", answers(504, HTML, PAGE), but_codex(FINAL, ONCE_MORE)),
    Fault("520", answers(520, HTML, PAGE), but_codex(FINAL, ONCE_MORE)),
    Fault("522", answers(522, HTML, PAGE), but_codex(FINAL, ONCE_MORE)),
    Fault("524", answers(524, HTML, PAGE), but_codex(FINAL, ONCE_MORE)),
    Fault("529 that says overloaded", refuses(529, error("overloaded_error")), same(NEXT)),
    Fault("a redirect", answers(302, b"", {"location": "/elsewhere"}), same(FINAL)),
    Fault("200 with a page", answers(200, HTML, PAGE), same(FINAL)),
    Fault("200 with nothing", answers(200, b""), same(FINAL)),
    Fault("200 without a picture", answers(200, {"data": []}), same(FINAL)),
    Fault("200 that cannot be opened", answers(200, b"?", {"content-encoding": "br"}), same(FINAL)),
    Fault(
        "200 with an error event",
        streams([{"type": "error", "error": {"code": "server_error", "message": "no"}}]),
        but_codex(FINAL, NEXT),
    ),
    Fault(
        "200 with events, cut",
        cut(frame(completed())[:50]),
        same(FINAL),
    ),
    Fault("a picture", answers(200, images()), same(FINAL)),
)


def rows() -> list[list[str]]:
    """The table as the page has it."""
    return [[fault.name, *(str(fault.costs[name]) for name in DIALECTS)] for fault in FAULTS]
