// A response in the background by the official SDK: an order as JSON on stdin, what its user saw as
// JSON on stdout.
//
// The order: {client, parameters}.  Seen: {begun, made} of a response that is polled, {first, rest}
// of one whose stream is left after its first event and read on from there, {cancelled}, {error} of
// one that was deleted.

import { text } from "node:stream/consumers";
import { setTimeout } from "node:timers/promises";

import OpenAI from "openai";

const order = JSON.parse(await text(process.stdin));
const client = new OpenAI(order.client);
const { input, ...parameters } = order.parameters;

const begin = (about, options) =>
  client.responses.create({ ...parameters, ...options, input: about, background: true });

async function ended(id) {
  for (;;) {
    const response = await client.responses.retrieve(id);
    if (!["queued", "in_progress"].includes(response.status)) return response;
    await setTimeout(50);
  }
}

const begun = await begin(input);
const made = await ended(begun.id);

let first;
for await (const event of await begin(`${input}, from behind`, { stream: true })) {
  first = event;
  break;
}
const { id } = first.response;
const after = first.sequence_number;
const rest = [];
const more = await client.responses.retrieve(id, { stream: true, starting_after: after });
for await (const event of more) rest.push(event);

const cancelled = await client.responses.cancel(id);
await client.responses.delete(id);
let error;
try {
  await client.responses.retrieve(id);
} catch ({ name, status, code }) {
  error = { name, status, code };
}
process.stdout.write(JSON.stringify({ begun, made, first, rest, cancelled, error }));
