// The OpenAI Agents SDK on Node: an agent with the image tool.

import { Agent, OpenAIResponsesModel, imageGenerationTool, run, setTracingDisabled } from "@openai/agents";
import OpenAI from "openai";

import { bytesOf, dataUrl, serve } from "./orders.mjs";

setTracingDisabled(true);

async function turn(agent, asked, stream) {
  const result = await run(agent, asked, { stream });
  let partials = 0;
  if (stream) {
    for await (const event of result) {
      if (event.data?.event?.type === "response.image_generation_call.partial_image") partials += 1;
    }
    await result.completed;
  }
  return { result, partials };
}

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
  let { result, partials } = await turn(agent, [{ role: "user", content }], order.stream);
  if (order.then) {
    const asked = [...result.history, { role: "user", content: order.then }];
    ({ result, partials } = await turn(agent, asked, order.stream));
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
