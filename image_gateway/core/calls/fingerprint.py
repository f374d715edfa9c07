"""The fingerprint of a request: two requests have the same one if they ask for the same answer.

It is an HMAC over the request as it was understood, so it tells nothing of a prompt or a picture.
It covers the key, the endpoint, the models, the parameters, each picture in its order, and the form
of the answer.  It does not cover what a client writes anew for each try: headers, the order of JSON
keys, the boundary of a form, the names of files.

The input is one JSON text with sorted keys.  JSON tells 1 from 1.0, true and "1", and where a value
ends, so no two requests have the same input.  Pictures stand in it as digests that were taken while
the body was read.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

import orjson

from image_gateway.core.calls.names import CallSecrets
from image_gateway.core.codec import json_skeleton
from image_gateway.core.request.catalogue import Catalogue
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.images import Image
from image_gateway.core.request.intent import AnyRequest, IntentRequest

_NOT_IN_BODY: Final = frozenset({"model", "stream", "background"})
"""Fields of a Responses body that are left out of it here.  The first two are there as they were
understood.  ``background`` only says how the answer goes on its way: a program whose waiting was
cut may ask for the same picture in the background, and gets it.  ``store`` stays: what the upstream
keeps is part of what was asked for."""


def of(secrets: CallSecrets, key_id: str, request: AnyRequest, catalogue: Catalogue) -> str:
    """The fingerprint of a key's request: 64 hex digits.

    Raises ``ValueError`` if a long string of the request was read without its digest.
    """
    digests: tuple[bytes, ...] = ()
    if isinstance(request, ImageRequest):
        value = _image(request, catalogue)
    else:
        value = _intent(request)
        digests = request.digests
    code = hmac.new(secrets.fingerprints, digestmod=hashlib.sha256)
    text = orjson.dumps({**value, "key": key_id}, option=orjson.OPT_SORT_KEYS)
    for index, part in enumerate(json_skeleton.split_placeholders(text)):
        code.update(_lifted(digests, int(part)) if index % 2 else part)
    return code.hexdigest()


def _image(request: ImageRequest, catalogue: Catalogue) -> Mapping[str, object]:
    return {
        "endpoint": request.endpoint,
        "model": request.model,
        "upstream_model": request.upstream_model,
        "prompt": request.prompt,
        "parameters": _parameters(request, catalogue),
        "images": [_picture(image) for image in request.images],
        "mask": None if request.mask is None else _picture(request.mask),
        "markup": None if request.markup is None else _picture(request.markup),
        "stream": request.stream,
        "answer_as_url": request.answer_as_url,
    }


def _parameters(request: ImageRequest, catalogue: Catalogue) -> Mapping[str, object]:
    """The parameters without documented defaults, so that a default and nothing are the same.

    A parameter that a later release knows then changes no fingerprint of a call without it: during
    a release both instances find each other's calls.
    """
    return {
        name: value
        for name, value in request.parameters.items()
        if name not in catalogue.parameters
        or not catalogue.parameters[name].asks_for_nothing(value)
    }


def _picture(image: Image) -> list[str | None]:
    """What tells a picture from any other.  Its type is not always in its bytes."""
    if image.digest is not None:
        return [image.type, None, image.digest]
    if json_skeleton.is_placeholder(image.text):
        raise ValueError("a picture was read without its digest")
    return [image.type, image.text, None]


def _intent(request: IntentRequest) -> Mapping[str, object]:
    return {
        "endpoint": "responses",
        "model": request.model,
        "upstream_model": request.upstream_model,
        "tool_models": [request.mapped(model) for model in request.tool_models],
        "body": {name: value for name, value in request.body.items() if name not in _NOT_IN_BODY},
        "stream": request.stream,
    }


def _lifted(digests: tuple[bytes, ...], number: int) -> bytes:
    """What replaces a placeholder: as no string of a body begins with NUL, it is like no other."""
    if not digests[number]:
        raise ValueError("a long string was read without its digest")
    return b"\\u0000" + digests[number].hex().encode()
