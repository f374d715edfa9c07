"""64 large edits at once against budgets that hold some of them: memory is bounded by design."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable

from tests.daemon.conftest import open_door
from tests.daemon.test_ops import until_metric
from tests.daemon.test_refusals import EDITS, check_error
from tests.parts import forms
from tests.parts.eventually import BOUND_SECONDS, eventually
from tests.parts.gateway import Gateway, parse, post
from tests.parts.plane import Plane
from tests.parts.upstream import PNG, Call, ScriptedUpstream, draws

MIB = 1024 * 1024
CLIENTS = 64
PICTURE_BYTES = 3_000_000
PICTURE = forms.Piece("image", PNG + b"\0" * PICTURE_BYTES, "a.png", "image/png")
EDIT = forms.body(("prompt", "a cat"), PICTURE)
MEMORY_BYTES = 24 * MIB
SPOOL_BYTES = 45_000_000
PER_CALL_BYTES = 1280 * 1024
"""What a connection may hold beside the budgets.  Where all calls are refused, it is 850 KB: what
one read of the socket gives (256 KiB), again in h11 and in the body's next message, and buffers of
the reader.  The rest is for pieces on their way to the disk and to the upstream.
"""


async def edit(gateway: Gateway, secret: str) -> tuple[int, dict[str, str], bytes]:
    """Send all of it before reading a byte, as many clients do; then read to the end."""
    reader, writer = await gateway.connect()
    writer.write(post(secret, EDIT, EDITS, {"content-type": forms.FORM}))
    await asyncio.wait_for(writer.drain(), BOUND_SECONDS)
    answer = await asyncio.wait_for(reader.read(), BOUND_SECONDS)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return parse(answer)


async def test_64_edits_at_once_cost_the_budgets_and_no_more(
    plane: Plane, make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    """What finds no room reads its 503; what found room is served; peak memory is the budget and
    some buffers for each call; and all of it is given back.
    """
    gateway = make_gateway(
        plane.reader_url, memory_budget_bytes=MEMORY_BYTES, spool_budget_bytes=SPOOL_BYTES
    ).start()
    door = open_door(gateway, plane, upstream, "openai", image_max_concurrency=CLIENTS)
    assert (await edit(gateway, door.secret))[0] == 200
    upstream.calls.clear()
    let_go = asyncio.Event()

    async def script(call: Call) -> None:
        await let_go.wait()
        await draws(call)

    upstream.script = script
    gateway.forget_peak()
    before = gateway.memory("VmHWM")
    running = [asyncio.create_task(edit(gateway, door.secret)) for _ in range(CLIENTS)]
    # Until each is refused or waits for its answer.
    await eventually(lambda: len(upstream.calls) + sum(each.done() for each in running) == CLIENTS)
    assert gateway.memory("VmHWM") - before <= MEMORY_BYTES + CLIENTS * PER_CALL_BYTES
    let_go.set()
    answers = await asyncio.gather(*running)
    statuses = Counter(status for status, _, _ in answers)
    assert set(statuses) == {200, 503}
    # The budgets are used: no call is refused while there is room for it.
    assert statuses[200] >= MEMORY_BYTES // (2 * MIB)
    assert statuses[200] <= (MEMORY_BYTES + SPOOL_BYTES) // PICTURE_BYTES
    for status, headers, body in answers:
        if status == 503:
            assert int(headers["retry-after"]) > 0
            check_error(body, "overloaded")
    assert len(upstream.calls) == statuses[200]
    await until_metric(gateway, "image_gateway_bytes_in_flight", 0)
    await eventually(lambda: len(gateway.records()) == CLIENTS + 1)
    told = Counter(record["error_code"] for record in gateway.records())
    assert told == {None: statuses[200] + 1, "overloaded": statuses[503]}
    # Both budgets are whole again: as many calls find room as before.
    upstream.script = draws
    room = MEMORY_BYTES // (4 * MIB)
    assert {(await edit(gateway, door.secret))[0] for _ in range(room)} == {200}
    assert list((gateway.folder / "spool").iterdir()) == []
    assert gateway.stop() == 0
