"""The answers of ``GET /v1/models``: what the key may ask for here, in OpenAI's shape."""

from collections.abc import Iterable
from datetime import UTC, datetime, time
from typing import Final

import orjson

from image_gateway.core.request.catalogue import Catalogue

_OWNER: Final = "image-gateway"


def listing(models: Iterable[str], catalogue: Catalogue) -> bytes:
    """The list of models, as JSON text."""
    return orjson.dumps({"object": "list", "data": [_entry(model, catalogue) for model in models]})


def single(model: str, catalogue: Catalogue) -> bytes:
    """One model, as JSON text."""
    return orjson.dumps(_entry(model, catalogue))


def _entry(model: str, catalogue: Catalogue) -> dict[str, object]:
    # OpenAI's clients want a number; when a model was made is not known here.
    created = datetime.combine(catalogue.as_of, time(), UTC)
    return {
        "id": model,
        "object": "model",
        "created": int(created.timestamp()),
        "owned_by": _OWNER,
    }
