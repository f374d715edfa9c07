// The AI SDK: `ai` with `@ai-sdk/openai`, or with `@ai-sdk/azure` where the order has its settings
// in `azure`.

import { createAzure } from "@ai-sdk/azure";
import { createOpenAI } from "@ai-sdk/openai";
import { generateImage, generateText, streamText } from "ai";

import { bytesOf, dataUrl, serve } from "./orders.mjs";

function provider({ azure, baseURL, apiKey }) {
  return azure ? createAzure({ baseURL, apiKey, ...azure }) : createOpenAI({ baseURL, apiKey });
}

function retriesOf({ retries }) {
  return retries === null ? {} : { maxRetries: retries };
}

async function draw(order) {
  const images = await bytesOf(order);
  const result = await generateImage({
    model: provider(order).image(order.model),
    prompt: images.length ? { text: order.prompt, images } : order.prompt,
    ...retriesOf(order),
    // Its only time-out is a signal, which ends all tries.
    ...(order.seconds ? { abortSignal: AbortSignal.timeout(order.seconds * 1000) } : {}),
    ...order.options,
  });
  const { inputTokens, outputTokens } = result.usage;
  return {
    pictures: result.images.map((image) => image.base64),
    usage: { input: inputTokens, output: outputTokens },
  };
}

async function turn(asked, stream) {
  if (!stream) {
    const { toolResults, totalUsage, response } = await generateText(asked);
    return { results: toolResults, usage: totalUsage, messages: response.messages };
  }
  const result = streamText({ ...asked, onError: () => {} });
  const results = [];
  for await (const part of result.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "tool-result") results.push(part);
  }
  const { messages } = await result.response;
  return { results, usage: await result.totalUsage, messages };
}

async function respond(order) {
  const made = provider(order);
  const images = await bytesOf(order);
  const content = [
    { type: "text", text: order.prompt },
    ...images.map((bytes) => ({ type: "image", image: dataUrl(bytes) })),
  ];
  const asked = {
    model: made.responses(order.model),
    messages: [{ role: "user", content }],
    tools: { image_generation: made.tools.imageGeneration(order.options) },
    ...retriesOf(order),
  };
  let { results, usage, messages } = await turn(asked, order.stream);
  if (order.then) {
    asked.messages.push(...messages, { role: "user", content: order.then });
    ({ results, usage } = await turn(asked, order.stream));
  }
  // Each partial picture is a result of the call, too, with nothing that tells it from the last.
  const last = new Map(results.map(({ toolCallId, output }) => [toolCallId, output.result]));
  return {
    pictures: [...last.values()],
    partials: results.length - last.size,
    usage: { input: usage.inputTokens, output: usage.outputTokens },
  };
}

await serve({ generate: draw, edit: draw, respond });
