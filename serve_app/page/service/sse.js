// Server-sent events from a fetch response: yields the parsed JSON of every `data:`.

import { ServiceError } from './api.js';

const LAST = '[DONE]';

/** Whether a response is a stream of events. @param {Response} response */
export function isEventStream(response) {
  return response.headers.get('content-type')?.startsWith('text/event-stream') ?? false;
}

/** The events of a response; throws what an error event says. @param {Response} response */
export async function* eventsOf(response) {
  for await (const event of parsedEvents(response)) {
    if (event.error) throw new ServiceError(event.error.message ?? String(event.error), event.error);
    yield event;
  }
}

/** The bytes of a text in base64. @param {string} base64 */
export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

async function* parsedEvents(response) {
  let waiting = '';
  for await (const text of textOf(response)) {
    waiting += text;
    const blocks = waiting.split(/\r?\n\r?\n/);
    waiting = blocks.pop();
    for (const block of blocks) yield* eventIn(block);
  }
  yield* eventIn(waiting);
}

async function* textOf(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      yield decoder.decode(value, { stream: true });
    }
    yield decoder.decode();
  } finally {
    reader.cancel().catch(() => {});
  }
}

function* eventIn(block) {
  const data = block
    .split(/\r?\n/)
    .filter((line) => line.startsWith('data:'))
    .map((line) => line.slice(5).replace(/^ /, ''))
    .join('\n');
  if (data && data !== LAST) yield JSON.parse(data);
}
