"""The image port's application where a socket cannot easily bring it: the end of its life."""

import json
import time
from asyncio import StreamWriter
from pathlib import Path
from typing import Any, cast

from image_gateway import app, config
from image_gateway.calls.registry import Calls
from image_gateway.context import AppContext
from image_gateway.edge.client.connection import ClientConnection
from image_gateway.edge.client.connections import Connections
from image_gateway.edge.loop_watch import LoopWatch
from image_gateway.edge.metrics import Metrics
from image_gateway.edge.records.writer import RequestLog, Rotation
from image_gateway.exchange import routes


class NoWriter:
    transport = None


async def test_a_request_that_comes_after_the_grace_is_told_to_come_again(tmp_path: Path) -> None:
    settings = config.parse(
        {"IMAGE_GATEWAY_CONTROL_DATABASE_URL": "postgresql://x", "LOGS_DIRECTORY": str(tmp_path)},
        lambda path: path.read_text("utf-8"),
    )
    nobody: Any = None
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    with RequestLog(settings.log_dir, Rotation(10**6, 3600, 2), time.time) as log:
        context = AppContext(
            settings=settings,
            catalogue=app.load_catalogue(settings),
            prices=app.load_prices(settings),
            control_plane=nobody,
            upstream=nobody,
            spools=nobody,
            kept=nobody,
            connections=Connections(64),
            slots=nobody,
            starts=nobody,
            text_api=nobody,
            metrics=Metrics(nobody),
            logs=log,
            loop_watch=LoopWatch(),
            prompt_key=b"",
        )
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/images/edits",
            "raw_path": b"/v1/images/edits",
            "headers": [],
            "client": ("127.0.0.1", 1),
            "state": {"connection": ClientConnection(cast("StreamWriter", NoWriter()))},
        }
        await routes.ImageApp(context, Calls(context), lambda: True)(scope, receive, send)
    start, body = sent[0], b"".join(message.get("body", b"") for message in sent[1:])
    headers = dict(start["headers"])
    assert start["status"] == 503
    assert int(headers[b"retry-after"]) >= 1
    assert b"x-should-retry" not in headers
    assert json.loads(body)["error"]["code"] == "draining"
    [record] = map(json.loads, (tmp_path / "requests.jsonl").read_text("utf-8").splitlines())
    assert (record["status"], record["error_code"], record["endpoint"]) == (
        503,
        "draining",
        "edits",
    )
