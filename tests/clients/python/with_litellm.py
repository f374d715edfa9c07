"""litellm, as a library: the Images API and the Responses API of an OpenAI-compatible base."""

import asyncio
import io
from typing import Any

import litellm

from tests.clients.python.orders import Order, data_url, files_of, retries_of, serve


def where(order: Order) -> dict[str, Any]:
    """Azure's addresses where the order says so."""
    return {
        "model": f"{'azure' if order.get('azure') else 'openai'}/{order['model']}",
        "api_base": order["baseURL"],
        "api_key": order["apiKey"],
        **({"api_version": order["azure"]} if order.get("azure") else {}),
        **retries_of(order),
    }


def drawn(result: Any) -> dict[str, Any]:
    usage = result.usage
    return {
        "pictures": [each.b64_json for each in result.data],
        "usage": {"input": usage.input_tokens, "output": usage.output_tokens},
    }


async def generate(order: Order) -> dict[str, Any]:
    asked = {"prompt": order["prompt"], **order["options"]}
    return drawn(await litellm.aimage_generation(**where(order), **asked))


async def edit(order: Order) -> dict[str, Any]:
    images = [io.BytesIO(data) for data in files_of(order)]
    asked = {"prompt": order["prompt"], "image": images, **order["options"]}
    return drawn(await litellm.aimage_edit(**where(order), **asked))


async def turn(asked: list[Any], order: Order) -> tuple[Any, int]:
    """The response, and how many partial pictures came."""
    result: Any = await litellm.aresponses(
        input=asked,
        tools=[{"type": "image_generation", **order["options"]}],
        stream=order["stream"],
        **where(order),
    )
    if not order["stream"]:
        return result, 0
    final, partials = None, 0
    async for event in result:
        partials += event.type == "response.image_generation_call.partial_image"
        if event.type == "response.completed":
            final = event.response
    return final, partials


async def respond(order: Order) -> dict[str, Any]:
    content = [
        {"type": "input_text", "text": order["prompt"]},
        *({"type": "input_image", "image_url": data_url(data)} for data in files_of(order)),
    ]
    asked: list[Any] = [{"role": "user", "content": content}]
    result, partials = await turn(asked, order)
    if order["then"]:
        items = [item.model_dump(exclude_none=True) for item in result.output]
        asked += [*items, {"role": "user", "content": order["then"]}]
        result, partials = await turn(asked, order)
    return {
        "pictures": [item.result for item in result.output if item.type == "image_generation_call"],
        "partials": partials,
        "usage": {"input": result.usage.input_tokens, "output": result.usage.output_tokens},
    }


asyncio.run(serve({"generate": generate, "edit": edit, "respond": respond}))
