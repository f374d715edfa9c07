"""LangChain: a chat model of ``langchain-openai`` with the image tool."""

import asyncio
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_openai import AzureChatOpenAI, ChatOpenAI

from tests.clients.python.orders import Order, data_url, files_of, retries_of, serve


def model_of(order: Order) -> ChatOpenAI | AzureChatOpenAI:
    chosen: dict[str, Any] = {
        "model": order["model"],
        "api_key": order["apiKey"],
        "use_responses_api": True,
        "output_version": "responses/v1",
        **retries_of(order),
    }
    if order.get("azure"):
        return AzureChatOpenAI(
            azure_endpoint=order["baseURL"], api_version=order["azure"], **chosen
        )
    return ChatOpenAI(base_url=order["baseURL"], **chosen)


async def turn(model: Any, messages: list[Any], order: Order) -> Any:
    if not order["stream"]:
        return await model.ainvoke(messages)
    message = None
    async for chunk in model.astream(messages):
        message = chunk if message is None else message + chunk
    return message


async def respond(order: Order) -> dict[str, Any]:
    model = model_of(order).bind_tools([{"type": "image_generation", **order["options"]}])
    content = [
        {"type": "text", "text": order["prompt"]},
        *({"type": "image_url", "image_url": {"url": data_url(data)}} for data in files_of(order)),
    ]
    messages: list[Any] = [HumanMessage(content=content)]
    message = await turn(model, messages, order)
    if order["then"]:
        messages += [message, HumanMessage(content=order["then"])]
        message = await turn(model, messages, order)
    usage = message.usage_metadata or {}
    return {
        "pictures": [
            block["result"]
            for block in _blocks(message)
            if block["type"] == "image_generation_call" and "result" in block
        ],
        "usage": {"input": usage.get("input_tokens"), "output": usage.get("output_tokens")},
    }


def _blocks(message: Any) -> list[dict[str, Any]]:
    return [block for block in message.content if isinstance(block, dict)]


asyncio.run(serve({"respond": respond}))
