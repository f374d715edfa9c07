// The loop that the programs in this folder share: an order as one line of JSON on stdin, what its
// user saw as one line of JSON on stdout, until stdin ends.
//
// An order: {do, baseURL, apiKey, model, prompt, pictures, then, stream, retries, options}.  `do`
// names an operation of the program; `pictures` are paths of files; `then` is what is asked in a
// second turn; `retries` null leaves the client its own default; `seconds` is a time-out.  What was seen: {pictures,
// partials, usage, error} of the last turn, with pictures as base64.

import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";

// A library's words must not mix with what was seen.
console.log = console.info = console.error;

export function bytesOf(order) {
  return Promise.all((order.pictures ?? []).map((path) => readFile(path)));
}

export function dataUrl(bytes) {
  return `data:image/png;base64,${bytes.toString("base64")}`;
}

function described(error) {
  const { message, status, statusCode, code } = error;
  return { name: error.constructor.name, message, status: status ?? statusCode ?? null, code: code ?? null };
}

export async function serve(operations) {
  for await (const line of createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    const seen = { pictures: [], partials: 0, usage: null, error: null };
    try {
      Object.assign(seen, await operations[order.do](order));
    } catch (error) {
      seen.error = described(error);
    }
    process.stdout.write(JSON.stringify(seen) + "\n");
  }
}
