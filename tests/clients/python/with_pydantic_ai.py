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
    if order["stream"]:
        async with agent.run_stream(asked) as result:
            output = await result.get_output()
    else:
        result = await agent.run(asked)
        output = result.output
    usage = result.usage
    return {
        "pictures": [text_of(output)],
        "usage": {"input": usage.input_tokens, "output": usage.output_tokens},
    }


asyncio.run(serve({"generate": draw, "edit": draw, "respond": respond}))
