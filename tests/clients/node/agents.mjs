// The OpenAI Agents SDK on Node: an agent with the image tool.

import { Agent, OpenAIResponsesModel, imageGenerationTool, run, setTracingDisabled } from "@openai/agents";
import OpenAI from "openai";

import { bytesOf, dataUrl, serve } from "./orders.mjs";

setTracingDisabled(true);

async function respond(order) {
  const client = new OpenAI({
    baseURL: order.baseURL,
    apiKey: order.apiKey,
    ...(order.retries === null ? {} : { maxRetries: order.retries }),
  });
  const agent = new Agent({
    name: "painter",
    instructions: "Paint what you are asked for.",
    model: new OpenAIResponsesModel(client, order.model),
    tools: [imageGenerationTool(order.options)],
  });
  const images = await bytesOf(order);
  const content = [
    { type: "input_text", text: order.prompt },
    ...images.map((bytes) => ({ type: "input_image", image: dataUrl(bytes) })),
  ];
  const result = await run(agent, [{ role: "user", content }], { stream: order.stream });
  let partials = 0;
  if (order.stream) {
    for await (const event of result) {
      if (event.data?.event?.type === "response.image_generation_call.partial_image") partials += 1;
    }
    await result.completed;
  }
  const items = result.newItems.map(({ rawItem }) => rawItem);
  const { inputTokens, outputTokens } = result.state.usage ?? {};
  return {
    pictures: items.filter(({ name }) => name === "image_generation_call").map(({ output }) => output),
    partials,
    usage: { input: inputTokens, output: outputTokens },
  };
}

await serve({ respond });
