// The status dot: asks /readyz now and then, more often while the service is not ready.

import { byId, publish } from '../ui/elements.js';

const READY_PAUSE_MS = 20000;
const WAITING_PAUSE_MS = 2000;
const ANSWER_LIMIT_MS = 8000;
const WORDS = {
  ready: 'Ready',
  waiting: 'Warming up…',
  away: 'Not answering',
};

const line = byId('ready');
const words = byId('ready-text');

/** Watch the service for as long as the page is open; `onAnswer` is called whenever its answer changes. */
export async function watchReadiness(onAnswer) {
  let before = '';
  for (;;) {
    const state = await readiness();
    if (state !== before) {
      show(state);
      if (state !== 'away') onAnswer(state);
    }
    before = state;
    await pause(state === 'ready' ? READY_PAUSE_MS : WAITING_PAUSE_MS);
    await untilVisible();
  }
}

async function readiness() {
  try {
    const response = await fetch('/readyz', { cache: 'no-store', signal: AbortSignal.timeout(ANSWER_LIMIT_MS) });
    return response.ok ? 'ready' : 'waiting';
  } catch {
    return 'away';
  }
}

function show(state) {
  line.dataset.state = state;
  words.textContent = WORDS[state];
  publish('ready', state === 'ready');
}

function pause(delay) {
  return new Promise((resolve) => {
    setTimeout(resolve, delay);
  });
}

function untilVisible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    document.addEventListener('visibilitychange', resolve, { once: true });
  });
}
