"""What every dialect speaks of: the call to send, and what it has to know beside the request."""

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
    """What a call asks to be answered with."""

    JSON = "an Images answer"
    IMAGE_EVENTS = "the Images API's own events"
    RESPONSE_EVENTS = "events of the Responses API, for one picture"
    RESPONSE = "events of the Responses API, for a client of that API"


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One POST to an upstream; headers and body hold secrets and are never shown."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: Body = field(repr=False)
    expects: ExpectedResponse = ExpectedResponse.JSON


@dataclass(frozen=True, slots=True)
class EncodeContext:
    """What a call is made of beside request and account: what the settings say where the account
    says nothing, and a ``boundary`` for multipart that nobody can guess.
    """

    base_url: str
    client_version: str
    boundary: str = field(repr=False)


def join(base_url: str, path: str) -> str:
    """``base_url`` with ``path`` behind its own path, and its query kept."""
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, fragment=""))


def upstream_name(request: ImageRequest, account: Account) -> str:
    """What the account calls the model."""
    return (account.deployments or {}).get(request.upstream_model, request.upstream_model)


def images_request(
    url: str,
    headers: Mapping[str, str],
    values: Mapping[str, object],
    request: ImageRequest,
    boundary: str | None,
) -> UpstreamRequest:
    """A call in the Images API's own form, as JSON or, given a ``boundary``, as multipart.

    ``stream`` is sent only where it is true: some upstreams refuse a false one.
    """
    values = dict(values)
    if request.stream:
        values["stream"] = True
    sent = {
        **headers,
        "accept": "text/event-stream" if request.stream else "application/json",
        "content-type": multipart.form_type(boundary) if boundary else "application/json",
    }
    answers = ExpectedResponse.IMAGE_EVENTS if request.stream else ExpectedResponse.JSON
    if boundary is None:
        return UpstreamRequest(
            url, sent, body_segments.from_json(values | pictures(request), request.texts), answers
        )
    files = [
        multipart.FormFile(image.name, image.type, image.data)
        for image in request.input_images
        if image.data is not None and image.type is not None
    ]
    return UpstreamRequest(
        url, sent, multipart.form(forms.to_fields(values), files, boundary), answers
    )


def pictures(request: ImageRequest) -> dict[str, object]:
    """The pictures of an edit as JSON carries them."""
    found: dict[str, object] = {}
    if request.images:
        found["images"] = [{"image_url": image.text} for image in request.images]
    for name, image in (("mask", request.mask), ("markup", request.markup)):
        if image is not None:
            found[name] = {"image_url": image.text}
    return found
