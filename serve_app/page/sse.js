// Server-sent events from a fetch response: yields the parsed JSON of every `data:`.

const LAST = '[DONE]';

export async function* eventsOf(response) {
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
