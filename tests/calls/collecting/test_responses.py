"""A whole response of the Responses API, concluded in moments that no socket brings for certain."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from image_gateway.calls.answer import Answer
from image_gateway.calls.collecting import CollectContext
from image_gateway.calls.collecting.responses import AssembledResponse
from image_gateway.core.records.builder import Arrival, RecordBuilder
from image_gateway.core.records.phases import Timeline
from image_gateway.core.request.intent import IntentRequest
from image_gateway.core.request.model_names import ModelNames
from image_gateway.edge.spool import Spools
from image_gateway.edge.upstream.http_client import UpstreamResponse
from tests.core.builders import Clock, key
from tests.parts.upstream import drawn, frame, picture

ROOM = 2**20


class Said:
    """An upstream's answer that is all here."""

    status = 200

    def __init__(self, *events: dict[str, Any]) -> None:
        self.headers: dict[str, str] = {}
        self._chunks = [frame(event) for event in events]

    async def chunk(self, seconds: float) -> bytes:  # noqa: ARG002 - the answer's own
        return self._chunks.pop(0) if self._chunks else b""

    def unread(self, chunk: bytes) -> None:
        self._chunks.insert(0, chunk)


async def announced() -> None:
    """Nobody looks for this call."""


@pytest.mark.parametrize("holds_output", [False, True], ids=["items before", "items at the end"])
async def test_a_process_that_ends_after_a_response_has_come_delivers_it_as_complete(
    tmp_path: Path, *, holds_output: bool
) -> None:
    """The drain deadline may fall between the last event and the end of its connection."""
    *before, item, completed = drawn()
    completed["response"]["status"] = "completed"
    events = [*before, item, completed]
    if holds_output:
        completed["response"]["output"] = [item["item"]]
        events = [*before, completed]
    with Spools(tmp_path, ROOM, ROOM) as spools:
        record = RecordBuilder(Arrival(datetime.now(UTC), "req_1"), Timeline(Clock()))
        answer = Answer(spools)
        context = CollectContext(answer, False, announced, record, spools, 5.0)
        intent = IntentRequest("gpt-5", (), ModelNames(key()), {})
        whole = AssembledResponse(context, intent)
        outcome = await whole.collect(
            cast("UpstreamResponse", Said(*events)), "codex", float("inf")
        )
        assert outcome.usable
        assert record.made is not None
        assert record.made.pictures == 1
        collected = whole.salvage()
        assert collected is not None
        assert collected.body is not None
        body = json.loads(b"".join([chunk async for chunk in collected.body.play()]))
        answer.give_up()
        assert spools.memory.used == spools.disk.used == 0
    assert body["status"] == "completed"
    assert [each["result"] for each in body["output"]] == [picture()]
