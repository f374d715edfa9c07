// LangChain on Node: a chat model of `@langchain/openai` with the image tool.

import { HumanMessage } from "@langchain/core/messages";
import { ChatOpenAI, tools } from "@langchain/openai";

import { bytesOf, dataUrl, serve } from "./orders.mjs";

async function turn(model, messages, stream) {
  if (!stream) return model.invoke(messages);
  let message;
  for await (const chunk of await model.stream(messages)) {
    message = message === undefined ? chunk : message.concat(chunk);
  }
  return message;
}

async function respond(order) {
  const model = new ChatOpenAI({
    model: order.model,
    apiKey: order.apiKey,
    configuration: { baseURL: order.baseURL },
    useResponsesApi: true,
    ...(order.retries === null ? {} : { maxRetries: order.retries }),
    ...(order.seconds ? { timeout: order.seconds * 1000 } : {}),
  }).bindTools([tools.imageGeneration(order.options)]);
  const images = await bytesOf(order);
  const content = [
    { type: "text", text: order.prompt },
    ...images.map((bytes) => ({ type: "image_url", image_url: { url: dataUrl(bytes) } })),
  ];
  const messages = [new HumanMessage({ content })];
  let message = await turn(model, messages, order.stream);
  if (order.then) {
    messages.push(message, new HumanMessage(order.then));
    message = await turn(model, messages, order.stream);
  }
  const made = message.additional_kwargs.tool_outputs ?? [];
  const { input_tokens, output_tokens } = message.usage_metadata ?? {};
  return {
    pictures: made.filter(({ type }) => type === "image_generation_call").map(({ result }) => result),
    usage: { input: input_tokens, output: output_tokens },
  };
}

await serve({ respond });
