"""An upstream that speaks the Codex image endpoints and draws what the prompt says, as text."""

import asyncio
import base64
import colorsys
import hashlib
import io
import re
import textwrap
import time
from typing import Final

from aiohttp import web
from PIL import Image, ImageDraw, ImageFont

TOKEN: Final = "sample-upstream-token"  # noqa: S105 - of the sample upstream only
_LARGEST_BODY: Final = 64 * 1024 * 1024
_THINKING_SECONDS: Final = 0.3
_DATA_URL: Final = re.compile(r"data:image/[a-z]+;base64,")


def application() -> web.Application:
    """The upstream as an aiohttp application."""
    upstream = web.Application(client_max_size=_LARGEST_BODY)
    upstream.router.add_post("/images/generations", _generate)
    upstream.router.add_post("/images/edits", _edit)
    return upstream


async def _generate(request: web.Request) -> web.Response:
    return await _answer(request, None)


async def _edit(request: web.Request) -> web.Response:
    body = await request.json()
    first = body["images"][0]["image_url"]
    return await _answer(request, base64.b64decode(_DATA_URL.sub("", first, count=1)))


async def _answer(request: web.Request, original: bytes | None) -> web.Response:
    if request.headers.get("authorization") != f"Bearer {TOKEN}":
        return web.json_response({"detail": "Unauthorized"}, status=401)
    body = await request.json()
    await asyncio.sleep(_THINKING_SECONDS)
    size = body.get("size", "1024x1024")
    size = "1024x1024" if size == "auto" else size
    width, height = (int(edge) for edge in size.split("x"))
    pictures = [
        draw(body["prompt"], width, height, number, original) for number in range(body.get("n", 1))
    ]
    return web.json_response(
        {
            "created": int(time.time()),
            "data": [
                {"b64_json": base64.b64encode(picture).decode(), "generation_id": f"gen_{number}"}
                for number, picture in enumerate(pictures)
            ],
            "background": "opaque",
            "output_format": "png",
            "quality": body.get("quality", "medium"),
            "size": size,
            "usage": {
                "input_tokens": len(body["prompt"].split()),
                "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
                "output_tokens": 1056 * len(pictures),
                "total_tokens": len(body["prompt"].split()) + 1056 * len(pictures),
            },
        },
        headers={"x-codex-primary-used-percent": "12"},
    )


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
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _colour(hue: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.6, value)
    return round(red * 255), round(green * 255), round(blue * 255)
