"""The OpenAI Agents SDK: an agent with the image tool."""

import asyncio
from typing import Any

from agents import Agent, ImageGenerationTool, OpenAIResponsesModel, Runner, set_tracing_disabled
from openai import AsyncAzureOpenAI, AsyncOpenAI

from tests.clients.python.orders import Order, data_url, files_of, retries_of, serve


def client_of(order: Order) -> AsyncOpenAI:
    chosen = {"api_key": order["apiKey"], **retries_of(order)}
    if order.get("azure"):
        return AsyncAzureOpenAI(
            azure_endpoint=order["baseURL"], api_version=order["azure"], **chosen
        )
    return AsyncOpenAI(base_url=order["baseURL"], **chosen)


async def turn(agent: Any, asked: list[Any], order: Order) -> tuple[Any, int]:
    """The run, and how many partial pictures came."""
    if not order["stream"]:
        return await Runner.run(agent, asked), 0
    partials = 0
    result = Runner.run_streamed(agent, asked)
    async for event in result.stream_events():
        kind = getattr(getattr(event, "data", None), "type", "")
        partials += kind == "response.image_generation_call.partial_image"
    return result, partials


async def respond(order: Order) -> dict[str, Any]:
    agent = Agent(
        name="painter",
        instructions="Paint what you are asked for.",
        model=OpenAIResponsesModel(model=order["model"], openai_client=client_of(order)),
        tools=[ImageGenerationTool(tool_config={"type": "image_generation", **order["options"]})],
    )
    content = [
        {"type": "input_text", "text": order["prompt"]},
        *(
            {"type": "input_image", "image_url": data_url(data), "detail": "auto"}
            for data in files_of(order)
        ),
    ]
    result, partials = await turn(agent, [{"role": "user", "content": content}], order)
    if order["then"]:
        asked = [*result.to_input_list(), {"role": "user", "content": order["then"]}]
        result, partials = await turn(agent, asked, order)
    items: list[Any] = [getattr(item, "raw_item", None) for item in result.new_items]
    usage = result.context_wrapper.usage
    return {
        "pictures": [
            item.result for item in items if getattr(item, "type", "") == "image_generation_call"
        ],
        "partials": partials,
        "usage": {"input": usage.input_tokens, "output": usage.output_tokens},
    }


set_tracing_disabled(disabled=True)
asyncio.run(serve({"respond": respond}))
