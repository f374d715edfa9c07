"""Interim."""

import hashlib

from image_gateway.core.request.image_request import ImageRequest


def of(secrets, key_id, request, catalogue) -> str:
    if isinstance(request, ImageRequest):
        pics = [(i.text, i.size, i.type) for i in request.input_images]
        text = repr(
            (
                key_id,
                request.endpoint,
                request.model,
                request.prompt,
                sorted(request.parameters.items(), key=str),
                pics,
                request.stream,
                request.answer_as_url,
            )
        )
    else:
        text = repr((key_id, request.body))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
