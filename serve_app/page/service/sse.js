// The body of a fetch response while it arrives: its bytes, or its server-sent events as the parsed JSON of every `data:`.

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

/** The bytes of a response as the network cut them; whoever stops early ends the request. @param {Response} response */
export async function* piecesOf(response) {
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
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
  const decoder = new TextDecoder();
  for await (const piece of piecesOf(response)) yield decoder.decode(piece, { stream: true });
  yield decoder.decode();
}

function* eventIn(block) {
  const data = block
    .split(/\r?\n/)
    .filter((line) => line.startsWith('data:'))
    .map((line) => line.slice(5).replace(/^ /, ''))
    .join('\n');
  if (data && data !== LAST) yield JSON.parse(data);
}
