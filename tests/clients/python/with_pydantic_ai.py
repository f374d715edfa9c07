"""Pydantic AI: an agent with the image tool, and its image generator for the Images API."""

import asyncio
import base64
from typing import Any

from openai import AsyncOpenAI
from pydantic_ai import Agent, BinaryContent, BinaryImage, ImageGenerationTool, ImageGenerator
from pydantic_ai.capabilities import NativeTool
from pydantic_ai.images.openai import OpenAIImageGenerationModel
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.python.orders import Order, files_of, retries_of, serve


def provider(order: Order) -> OpenAIProvider:
    client = AsyncOpenAI(base_url=order["baseURL"], api_key=order["apiKey"], **retries_of(order))
    return OpenAIProvider(openai_client=client)


def text_of(image: BinaryContent) -> str:
    return base64.b64encode(image.data).decode()


async def draw(order: Order) -> dict[str, Any]:
    generator = ImageGenerator(OpenAIImageGenerationModel(order["model"], provider=provider(order)))
    images = [BinaryImage(data=data, media_type="image/png") for data in files_of(order)]
    settings = {f"openai_{name}": value for name, value in order["options"].items()}
    result = await generator.generate(order["prompt"], images=images or None, settings=settings)
    return {
        "pictures": [text_of(image.content) for image in result.images],
        "usage": {"input": result.usage.input_tokens, "output": result.usage.output_tokens},
    }


async def turn(agent: Any, asked: Any, order: Order, history: list[Any]) -> tuple[Any, Any]:
    """The output, and the run."""
    if not order["stream"]:
        result = await agent.run(asked, message_history=history)
        return result.output, result
    async with agent.run_stream(asked, message_history=history) as stream:
        return await stream.get_output(), stream


async def respond(order: Order) -> dict[str, Any]:
    agent = Agent(
        OpenAIResponsesModel(order["model"], provider=provider(order)),
        output_type=BinaryImage,
        capabilities=[
            NativeTool(ImageGenerationTool(provider_settings={"openai": order["options"]}))
        ],
    )
    images = [BinaryContent(data=data, media_type="image/png") for data in files_of(order)]
    asked = [order["prompt"], *images]
    output, result = await turn(agent, asked, order, [])
    if order["then"]:
        output, result = await turn(agent, [order["then"]], order, result.all_messages())
    usage = result.usage
    return {
        "pictures": [text_of(output)],
        "usage": {"input": usage.input_tokens, "output": usage.output_tokens},
    }


asyncio.run(serve({"generate": draw, "edit": draw, "respond": respond}))
