// Calls by the official SDK: an order as JSON on stdin, what its user saw as JSON on stdout.
//
// The order: {azure, wire, client, calls: [{method, parameters, take}]}.  `client` holds the
// options of OpenAI, or of AzureOpenAI where `azure` is true; the calls go one after the other.
// A picture among the parameters is {file: {path, by, name, type}}, where `by` names a way in which
// people hand files to the SDK.  With `take` the reader of a stream leaves after so many events.
//
// What was seen, per call: {data | events, requestID, headers} and, where the SDK threw, {error}.
// With `wire` also the bodies of all answers as they came, the comments of a stream among them.

import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";

import OpenAI, { AzureOpenAI, toFile } from "openai";

const WAYS = {
  bytes: async ({ path, name }) => toFile(await readFile(path), name),
  buffer: async ({ path, name, type }) => toFile(await readFile(path), name, { type }),
  upload: async ({ path, name, type }) => toFile(createReadStream(path), name, { type }),
  file: async ({ path, name, type }) => new File([await readFile(path)], name, { type }),
  stream: async ({ path }) => createReadStream(path),
};

async function filled(value) {
  if (Array.isArray(value)) return Promise.all(value.map(filled));
  return value?.file ? WAYS[value.file.by](value.file) : value;
}

function described(error) {
  // What the SDK did not make an error of its own, as of an answer that breaks off.
  if (!(error instanceof OpenAI.OpenAIError)) {
    return { name: error.constructor.name, isApiError: false, message: error.message };
  }
  const { status, code, type, param, message, requestID, headers } = error;
  const isApiError = error instanceof OpenAI.APIError;
  const shouldRetry = headers?.get("x-should-retry") ?? null;
  const name = error.constructor.name;
  return { name, isApiError, status, code, type, param, message, requestID, shouldRetry };
}

async function seen(client, { method, parameters, take = Infinity }) {
  const result = {};
  try {
    const given = {};
    for (const [name, value] of Object.entries(parameters)) given[name] = await filled(value);
    const { data, response, request_id } = await client.images[method](given).withResponse();
    result.requestID = request_id;
    result.headers = Object.fromEntries(response.headers);
    if (parameters.stream) {
      result.events = [];
      for await (const event of data) {
        result.events.push(event);
        if (result.events.length === take) break;
      }
    } else {
      result.data = data;
    }
  } catch (error) {
    result.error = described(error);
  }
  return result;
}

const order = JSON.parse(await text(process.stdin));
const wire = [];
const options = { ...order.client };
if (order.wire) {
  options.fetch = async (url, init) => {
    const response = await fetch(url, init);
    wire.push(response.clone().text());
    return response;
  };
}
const client = order.azure ? new AzureOpenAI(options) : new OpenAI(options);
const calls = [];
for (const call of order.calls) calls.push(await seen(client, call));
process.stdout.write(JSON.stringify({ calls, wire: await Promise.all(wire) }));
