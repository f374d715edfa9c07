"""The types and functions that all dialects share: the call to send, and its encode context."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit, urlunsplit

from image_gateway.core.codec import body_segments, multipart
from image_gateway.core.codec.body_segments import Body
from image_gateway.core.model import Account
from image_gateway.core.request import forms
from image_gateway.core.request.image_request import ImageRequest


class ExpectedResponse(Enum):
    """The answer that a call asks for."""

    JSON = "an Images answer"
    IMAGE_EVENTS = "the Images API's own events"
    RESPONSE_EVENTS = "events of the Responses API, for one picture"
    RESPONSE = "events of the Responses API, for a client of that API"


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One POST to an upstream; headers and body hold secrets, so ``repr`` leaves them out.

    ``picture_model`` is the model that draws for a call of the Responses API, by the name that the
    key's map gives; None if that is not known.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: Body = field(repr=False)
    expects: ExpectedResponse = ExpectedResponse.JSON
    picture_model: str | None = None


@dataclass(frozen=True, slots=True)
class EncodeContext:
    """What an encoder needs beside request and account: defaults from the settings for what the
    account leaves open, and a random ``boundary`` for multipart.
    """

    base_url: str
    client_version: str
    boundary: str = field(repr=False)

    @property
    def call_id(self) -> str:
        """A UUID of this call, as random as ``boundary``."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.boundary))


def join(base_url: str, path: str) -> str:
    """``base_url`` with ``path`` appended to its own path; its query is kept."""
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, fragment=""))


def upstream_name(request: ImageRequest, account: Account) -> str:
    """The account's name for the model."""
    return (account.deployments or {}).get(request.upstream_model, request.upstream_model)


def images_request(
    url: str,
    headers: Mapping[str, str],
    values: Mapping[str, object],
    request: ImageRequest,
    boundary: str | None,
) -> UpstreamRequest:
    """A call of the Images API, as JSON or, with a ``boundary``, as multipart.

    ``stream`` is sent only if it is true: some upstreams refuse ``false``.
    """
    values = dict(values)
    if request.stream:
        values["stream"] = True
    sent = {
        **headers,
        "accept": "text/event-stream" if request.stream else "application/json",
        "content-type": multipart.form_type(boundary) if boundary else "application/json",
    }
    expects = ExpectedResponse.IMAGE_EVENTS if request.stream else ExpectedResponse.JSON
    if boundary is None:
        return UpstreamRequest(
            url, sent, body_segments.from_json(values | pictures(request), request.texts), expects
        )
    # One picture is ``image``, several are ``image[]``, whatever the client called them.
    name = "image" if len(request.images) == 1 else "image[]"
    named = [(name, image) for image in request.images]
    named += [("mask", request.mask)] if request.mask else []
    named += [("markup", request.markup)] if request.markup else []
    files = [
        multipart.FormFile(name, image.type, image.data)
        for name, image in named
        if image.data is not None and image.type is not None
    ]
    return UpstreamRequest(
        url, sent, multipart.form(forms.to_fields(values), files, boundary), expects
    )


def pictures(request: ImageRequest) -> dict[str, object]:
    """The pictures of an edit, as fields of a JSON body."""
    fields: dict[str, object] = {}
    if request.images:
        fields["images"] = [{"image_url": image.text} for image in request.images]
    for name, image in (("mask", request.mask), ("markup", request.markup)):
        if image is not None:
            fields[name] = {"image_url": image.text}
    return fields
