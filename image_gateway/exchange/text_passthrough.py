"""Passes calls on the Responses paths that do not ask for a picture to the text API.

They stay as they came.  Only a call of a key that may not make images can lose the image tool that
it lists, if the setting ``AMBIENT_IMAGE_TOOL`` says so.
"""

from typing import Final
from urllib.parse import urlsplit

from image_gateway.core.errors import Refusal
from image_gateway.core.records.builder import Called, RecordBuilder
from image_gateway.core.records.phases import Phase
from image_gateway.edge.client.downstream import Downstream
from image_gateway.edge.spool import SpooledBody
from image_gateway.edge.upstream.http_client import LostError, UnsentError
from image_gateway.edge.upstream.text_api import TextApi

_UNREACHABLE_RETRY_SECONDS: Final = 5.0
_OF_CLIENTS_BODY: Final = frozenset(
    {b"content-encoding", b"content-md5", b"digest", b"content-digest"}
)


async def pass_on(
    text_api: TextApi,
    downstream: Downstream,
    record: RecordBuilder,
    body: SpooledBody,
    *,
    is_changed: bool = False,
) -> None:
    """Pass on a call, and pass its answer back; raises ``Refusal`` and ``ClientLeftError``.

    ``is_changed``: the body is not the client's own any more, and not compressed.
    """
    fields = [
        (name, value)
        for name, value in downstream.pairs
        if not (is_changed and name.lower() in _OF_CLIENTS_BODY)
    ]
    record.enter(Phase.SENT)
    record.called = Called(urlsplit(downstream.target).path)
    try:
        async with (
            downstream.watch(),
            text_api.post(downstream.target, fields, body) as answer,
        ):
            record.enter(Phase.ANSWERED)
            await downstream.pass_on(answer.status, answer.headers)
            async for chunk in answer.chunks():
                await downstream.send(chunk)
        await downstream.finish()
    except UnsentError:
        raise Refusal(
            "upstream_unreachable",
            "The text API cannot be reached; nothing was sent. Try again.",
            retry_after=_UNREACHABLE_RETRY_SECONDS,
        ) from None
    except LostError:
        raise Refusal("upstream_cut", "The text API's answer broke off.") from None
