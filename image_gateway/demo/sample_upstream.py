"""An upstream that draws what the prompt says, as text: Codex by both routes, and Azure OpenAI."""

import asyncio
import base64
import colorsys
import hashlib
import io
import json
import re
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from aiohttp import web
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

TOKEN: Final = "sample-upstream-token"  # noqa: S105 - of the sample upstream only
DEPLOYMENT: Final = "pictures"
API_VERSION: Final = "2025-04-01-preview"
_LARGEST_BODY: Final = 64 * 1024 * 1024
_THINKING_SECONDS: Final = 0.3
_DATA_URL: Final = re.compile(r"data:image/[a-z]+;base64,")
_AZURE: Final = f"/openai/deployments/{DEPLOYMENT}/images"


class SampleUpstream:
    """The upstream and how often it was asked for a picture."""

    def __init__(self) -> None:
        self.purchases = 0
        """Calls for pictures so far; each would be billed."""
        self._thinking_seconds = _THINKING_SECONDS

    def application(self) -> web.Application:
        """The upstream as an aiohttp application: Codex under ``/codex``, Azure at the root."""
        upstream = web.Application(client_max_size=_LARGEST_BODY)
        upstream.router.add_post("/codex/images/generations", self._codex_images)
        upstream.router.add_post("/codex/images/edits", self._codex_images)
        upstream.router.add_post("/codex/responses", self._codex_responses)
        upstream.router.add_post(f"{_AZURE}/generations", self._azure_generation)
        upstream.router.add_post(f"{_AZURE}/edits", self._azure_edit)
        return upstream

    @contextmanager
    def slowed(self, seconds: float) -> Iterator[None]:
        """Meanwhile it takes so long for each answer."""
        before, self._thinking_seconds = self._thinking_seconds, seconds
        try:
            yield
        finally:
            self._thinking_seconds = before

    # -- Codex -------------------------------------------------------------------------------------

    async def _codex_images(self, request: web.Request) -> web.Response:
        _require(request.headers.get("authorization") == f"Bearer {TOKEN}")
        body = await request.json()
        images = body.get("images") or [{}]
        answer = await self._draw_all(body, _from_data_url(images[0].get("image_url")))
        return web.json_response(answer, headers={"x-codex-primary-used-percent": "12"})

    async def _codex_responses(self, request: web.Request) -> web.StreamResponse:
        _require(request.headers.get("authorization") == f"Bearer {TOKEN}")
        body = await request.json()
        prompt, *inputs = body["input"][0]["content"]
        tool = body["tools"][0]
        self.purchases += 1
        width, height = _size(tool)
        original = _from_data_url(inputs[0]["image_url"]) if inputs else None
        picture = draw(prompt["text"], width, height, 0, original)
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await stream.prepare(request)

        async def send(kind: str, **fields: Any) -> None:
            await asyncio.sleep(self._thinking_seconds)
            data = json.dumps({"type": kind, **fields})
            await stream.write(f"event: {kind}\ndata: {data}\n\n".encode())

        await send("response.created", response={"id": "resp_sample"})
        count = tool.get("partial_images", 0)
        for index in range(count):
            await send(
                "response.image_generation_call.partial_image",
                partial_image_index=index,
                partial_image_b64=_base64(_coarse(picture, 2 ** (count - index + 2))),
            )
        item = {
            "type": "image_generation_call",
            "result": _base64(picture),
            "size": f"{width}x{height}",
            "quality": tool.get("quality", "medium"),
            "background": "opaque",
            "output_format": "png",
        }
        await send("response.output_item.done", item=item)
        usage = _usage(prompt["text"], 1)
        await send(
            "response.completed", response={"output": [], "tool_usage": {"image_gen": usage}}
        )
        return stream

    # -- Azure -------------------------------------------------------------------------------------

    async def _azure_generation(self, request: web.Request) -> web.Response:
        _require(request.headers.get("api-key") == TOKEN)
        return web.json_response(await self._draw_all(await request.json(), None))

    async def _azure_edit(self, request: web.Request) -> web.Response:
        _require(request.headers.get("api-key") == TOKEN)
        form = await request.post()
        image = form.get("image") or form.get("image[]")
        if "model" in form or not isinstance(image, web.FileField):
            error = {"code": "invalid_request", "message": "a picture is needed, and no model"}
            return web.json_response({"error": error}, status=400)
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        return web.json_response(await self._draw_all(fields, image.file.read()))

    async def _draw_all(self, body: Mapping[str, Any], original: bytes | None) -> dict[str, Any]:
        self.purchases += 1
        await asyncio.sleep(self._thinking_seconds)
        return _draw_all(body, original)


# -- answers ---------------------------------------------------------------------------------------


def _require(signed: object) -> None:
    if not signed:
        raise web.HTTPUnauthorized(text='{"detail": "Unauthorized"}')


def _draw_all(body: Mapping[str, Any], original: bytes | None) -> dict[str, Any]:
    width, height = _size(body)
    count = int(body.get("n", 1))
    try:
        pictures = [
            draw(body["prompt"], width, height, number, original) for number in range(count)
        ]
    except UnidentifiedImageError:
        error = {"code": "invalid_image", "message": "This is not a picture.", "param": "image"}
        raise web.HTTPBadRequest(
            text=json.dumps({"error": {**error, "type": "invalid_request_error"}}),
            content_type="application/json",
        ) from None
    return {
        "created": int(time.time()),
        "data": [{"b64_json": _base64(picture)} for picture in pictures],
        "background": "opaque",
        "output_format": "png",
        "quality": body.get("quality", "medium"),
        "size": f"{width}x{height}",
        "usage": _usage(body["prompt"], count),
    }


def _size(body: Mapping[str, Any]) -> tuple[int, int]:
    size = body.get("size", "auto")
    width, height = ("1024x1024" if size == "auto" else size).split("x")
    return int(width), int(height)


def _usage(prompt: str, count: int) -> dict[str, Any]:
    words = len(prompt.split())
    return {
        "input_tokens": words,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": words},
        "output_tokens": 1056 * count,
        "total_tokens": words + 1056 * count,
    }


def _from_data_url(url: str | None) -> bytes | None:
    return None if url is None else base64.b64decode(_DATA_URL.sub("", url, count=1))


def _base64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def draw(prompt: str, width: int, height: int, number: int, original: bytes | None) -> bytes:
    """A PNG with the prompt on a gradient of its own colours, or on the picture to be edited."""
    hue = hashlib.sha256(f"{prompt}{number}".encode()).digest()[0] / 256
    if original is None:
        shade = Image.linear_gradient("L").resize((width, height))
        dark, light = (_colour(hue, value) for value in (0.35, 0.9))
        picture = Image.composite(
            Image.new("RGB", (width, height), light), Image.new("RGB", (width, height), dark), shade
        )
    else:
        picture = Image.open(io.BytesIO(original)).convert("RGB").resize((width, height))
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(width // 20, 12))
    text = textwrap.fill(prompt, 32)
    place = (width / 2, height / 2 if original is None else height * 0.85)
    pen.multiline_text(
        place,
        text,
        font=font,
        anchor="mm",
        align="center",
        fill="white",
        stroke_width=max(width // 300, 1),
        stroke_fill="black",
    )
    return _png(picture)


def _coarse(picture: bytes, step: int) -> bytes:
    """The same picture as it looks before it is finished."""
    whole = Image.open(io.BytesIO(picture))
    small = whole.resize((max(whole.width // step, 1), max(whole.height // step, 1)))
    return _png(small.resize(whole.size, Image.Resampling.NEAREST))


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _colour(hue: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.6, value)
    return round(red * 255), round(green * 255), round(blue * 255)
