// A live session of the service: events as JSON over a WebSocket, with OpenAI's names.

import { ServiceError, askJson, openSocket } from './api.js';

const OPEN_LIMIT_MS = 10000;
const ENDED_WORDS = 'The service ended the live session.';

export class RealtimeSession {
  #socket;
  #onEvent;
  #lastError = null;
  #closing = false;
  #fail = () => {};
  #updated = () => {};

  constructor(query, onEvent) {
    this.#onEvent = onEvent;
    this.#socket = openSocket(`/v1/realtime?${query}`);
    /** Rejects when the service ends the session; never resolves. */
    this.ended = new Promise((_, reject) => {
      this.#fail = reject;
    });
    this.ended.catch(() => {});
    this.#socket.addEventListener('message', ({ data }) => this.#receive(JSON.parse(data)));
    this.#socket.addEventListener('close', () => this.#closed());
  }

  /** Configures the session; resolves when it is ready, and throws a ServiceError if it is refused. */
  async open(settings) {
    const updated = new Promise((resolve) => {
      this.#updated = resolve;
    });
    const late = afterMs(OPEN_LIMIT_MS).then(() => {
      throw this.#lastError ?? new ServiceError('The service did not open a live session in time.');
    });
    late.catch(() => {});
    const opened = new Promise((resolve) => {
      this.#socket.addEventListener('open', resolve);
    });
    await Promise.race([opened, this.ended, late]);
    this.send({ type: 'session.update', session: settings });
    await Promise.race([updated, this.ended, late]);
  }

  send(event) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(event));
  }

  append(bytes) {
    this.send({ type: 'input_audio_buffer.append', audio: btoa(String.fromCharCode(...bytes)) });
  }

  close() {
    this.#closing = true;
    this.#socket.close();
  }

  #receive(event) {
    if (event.type === 'error') this.#lastError = new ServiceError(event.error.message, event.error);
    if (event.type === 'session.updated') this.#updated();
    if (!this.#closing) this.#onEvent(event);
  }

  async #closed() {
    if (this.#closing) return;
    this.#fail(this.#lastError ?? (await whyClosed()));
  }
}

/** A browser hides why a WebSocket did not open. A request for the models has the same key, and says it. */
async function whyClosed() {
  try {
    await askJson('/v1/models');
    return new ServiceError(ENDED_WORDS);
  } catch (error) {
    return error;
  }
}

function afterMs(delay) {
  return new Promise((resolve) => {
    setTimeout(resolve, delay);
  });
}
