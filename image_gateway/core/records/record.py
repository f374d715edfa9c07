"""The log record: one object per request, built from an allow-list.

The exchange fills a ``RecordBuilder`` as facts become known; ``build`` turns it into the record
with every field of ``FIELDS``, null where a fact is not known.  There is no field that could hold a
prompt, a picture, an address of one, a credential or an upstream's body, so none can get in.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Final

from image_gateway.core.codec import json_scanner, json_skeleton
from image_gateway.core.errors import Source, UpstreamError
from image_gateway.core.model import Key
from image_gateway.core.request.image_request import ImageRequest
from image_gateway.core.request.intent import IntentRequest

SCHEMA_VERSION: Final = 1


@dataclass(slots=True)
class AttemptRecord:
    """One call to one account."""

    account_name: str
    dialect: str
    stage: str | None = None
    status: int | None = None
    error_code: str | None = None
    action: str | None = None
    upstream_ms: int | None = None


@dataclass(slots=True)
class RecordBuilder:
    """A record in the making; the fields are the record's, in its order."""

    time: datetime
    request_id: str
    client_address: str | None = None
    key_id: str | None = None
    key_name: str | None = None
    group_id: str | None = None
    endpoint: str | None = None
    path: str | None = None
    body_form: str | None = None
    request_bytes: int | None = None
    model: str | None = None
    upstream_model: str | None = None
    size: str | None = None
    quality: str | None = None
    n: int | None = None
    stream: bool | None = None
    input_image_count: int | None = None
    input_image_bytes: int | None = None
    prompt_chars: int | None = None
    prompt_hmac: str | None = None
    status: int | None = None
    error_code: str | None = None
    error_source: str | None = None
    account_name: str | None = None
    dialect: str | None = None
    attempts: list[AttemptRecord] = field(default_factory=list)
    response_bytes: int | None = None
    response_image_count: int | None = None
    usage: dict[str, int] | None = None
    auth_ms: int | None = None
    body_ms: int | None = None
    wait_ms: int | None = None
    upstream_ms: int | None = None
    stream_ms: int | None = None
    total_ms: int | None = None
    client_left: bool = False
    may_be_billed: bool = False

    def record_key(self, key: Key) -> None:
        """Whose call it is."""
        self.key_id = key.key_id
        self.key_name = key.key_name
        self.group_id = key.group_id

    def record_request(self, request: ImageRequest, prompt_key: bytes) -> None:
        """What was asked for; of the prompt its length and its keyed hash."""
        size, quality = request.parameters.get("size"), request.parameters.get("quality")
        self.model = request.model
        self.upstream_model = request.upstream_model
        self.size = size if isinstance(size, str) else None
        self.quality = quality if isinstance(quality, str) else None
        self.n = request.count
        self.stream = request.stream
        self.input_image_count = len(request.input_images)
        self.input_image_bytes = sum(image.size or 0 for image in request.input_images)
        self.prompt_chars = len(request.prompt)
        self.prompt_hmac = prompt_hmac(prompt_key, request.prompt)

    def record_intent(self, request: IntentRequest, prompt_key: bytes) -> None:
        """The same of a call to the Responses API, as far as it is known."""
        prompt = request.prompt
        self.model = request.model
        self.upstream_model = request.upstream_model
        self.stream = request.stream
        self.input_image_count = request.input_image_count
        if prompt is not None:
            self.prompt_chars = len(prompt)
            self.prompt_hmac = prompt_hmac(prompt_key, prompt)

    def record_answer(
        self, pictures: int, usage: Mapping[str, object] | None, first: Mapping[str, object]
    ) -> None:
        """What came back: pictures, usage, and the size and quality that ``first`` of them says.

        What was asked for is advisory upstream; what came back is what is paid for.
        """
        self.response_image_count = pictures
        self.usage = sums(usage)
        self.size = _answered(first, "size") or self.size
        self.quality = _answered(first, "quality") or self.quality

    def record_failure(self, code: str, source: Source) -> None:
        """The first failure is the one that counts; what follows from it does not."""
        if self.error_code is None:
            self.error_code = code
            self.error_source = source


FIELDS: Final = ("schema_version", *(item.name for item in fields(RecordBuilder)))
"""The record's fields, in order."""

_ATTEMPT_FIELDS: Final = tuple(item.name for item in fields(AttemptRecord))
_LONGEST_TEXT: Final = 256


def build(builder: RecordBuilder) -> dict[str, object]:
    """The record, ready for JSON; texts are cut to 256 characters, for clients choose some."""
    record: dict[str, object] = {"schema_version": SCHEMA_VERSION}
    for name in FIELDS[1:]:
        record[name] = _plain(getattr(builder, name))
    record["time"] = builder.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record["attempts"] = [
        {name: _plain(getattr(attempt, name)) for name in _ATTEMPT_FIELDS}
        for attempt in builder.attempts
    ]
    return record


def _plain(value: object) -> object:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else value


def prompt_hmac(key: bytes, prompt: str) -> str:
    """The prompt's keyed SHA-256 in hex: equal prompts show, short ones cannot be guessed."""
    return hmac.new(key, prompt.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def sums(usage: object) -> dict[str, int] | None:
    """The three sums of an answer's ``usage``, None where it has none."""
    if not isinstance(usage, Mapping):
        return None
    found = {
        name: usage[name]
        for name in ("input_tokens", "output_tokens", "total_tokens")
        if isinstance(usage.get(name), int) and not isinstance(usage[name], bool)
    }
    return found or None


_ANSWERS: Final = replace(json_scanner.IMAGES, tokens=json_scanner.IMAGES.skeleton_bytes)
"""An upstream's answer may hold more values than a client's body: it is paid for.  What may remain
of it bounds them all the same."""


class AnswerMeter:
    """Counts an answer's pictures and usage; an answer it cannot read it lets pass unread.

    The record of one that passed unread says ``may_be_billed``: it holds what nobody has counted.
    """

    def __init__(self) -> None:
        self._skeleton: json_skeleton.JsonSkeleton | None = json_skeleton.JsonSkeleton(
            limits=_ANSWERS, strict=False
        )

    def feed(self, chunk: bytes) -> None:
        if self._skeleton is not None:
            try:
                self._skeleton.feed(chunk)
            except json_scanner.ScanError:
                self._skeleton = None

    def close(self, record: RecordBuilder) -> bool:
        """Note what the answer says: pictures, usage, and the size and quality that came back.

        Gives False where it ends too early, or is no JSON at all.
        """
        answer = None
        is_whole = True
        if self._skeleton is not None:
            try:
                answer = self._skeleton.close(mend=True)
            except json_scanner.ScanError:
                is_whole = False
        if isinstance(answer, dict):
            data = answer.get("data")
            # The entries count, whatever ``n`` asked for.
            pictures = len(data) if isinstance(data, list) else 0
            record.record_answer(pictures, answer.get("usage"), answer)
        else:
            record.may_be_billed = True
        return is_whole


def _answered(answer: Mapping[str, object], name: str) -> str | None:
    value = answer.get(name)
    return (
        value
        if isinstance(value, str) and json_skeleton.placeholder_number(value) is None
        else None
    )


_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def upstream_code(error: UpstreamError) -> str | None:
    """An upstream's code, if it looks like one: a sentence has no place in a record."""
    text = error.code or error.type
    return text if text is not None and _CODE.fullmatch(text) else None
