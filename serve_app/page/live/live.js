// What captions and conversation share: the microphone feeds a live session until the person stops it.

import { Microphone } from '../sound/microphone.js';
import { RealtimeSession } from '../service/realtime.js';
import { byId, hideError, publish, showError } from '../ui/elements.js';
import { OneAtATime } from '../ui/one-at-a-time.js';

/** The button, the meter, the status and the error line of one live panel, whose elements are called `name-…`. */
export class LivePanel {
  #name;
  #button;
  #label;
  #meter;
  #status;
  #error;
  #request = new OneAtATime();

  constructor(name) {
    this.#name = name;
    this.#button = byId(`${name}-button`);
    this.#label = byId(`${name}-label`);
    this.#meter = byId(`${name}-level`);
    this.#status = byId(`${name}-status`);
    this.#error = byId(`${name}-error`);
    this.#showLevel(0);
    this.show('idle', '');
  }

  /** `run` is called when the button starts the panel. It gets a signal that aborts when the button stops it. */
  whenStarted(run) {
    this.#button.addEventListener('click', () => (this.#request.busy ? this.#stop() : this.#start(run)));
  }

  allow(allowed) {
    if (!this.#request.busy) this.#button.disabled = !allowed;
  }

  show(state, words) {
    publish(`${this.#name}State`, state);
    this.#status.textContent = words;
  }

  complain(error) {
    showError(this.#error, error);
  }

  /** Sends the microphone to a session until the signal aborts, then waits for `finish(session)`. Throws what ended it. */
  async listen({ query, settings, onEvent, onReady, finish = () => {}, signal }) {
    const microphone = await Microphone.open((level) => this.#showLevel(level));
    let session = null;
    try {
      signal.throwIfAborted();
      session = new RealtimeSession(query, onEvent);
      await session.open(settings);
      microphone.deliver((bytes) => session.append(bytes));
      onReady(session);
      await Promise.race([session.ended, microphone.lost, aborted(signal)]);
      microphone.close();
      await Promise.race([session.ended, finish(session)]);
    } finally {
      microphone.close();
      session?.close();
      this.#showLevel(0);
    }
  }

  async #start(run) {
    hideError(this.#error);
    this.#showActive(true);
    this.show('starting', 'Waiting for the microphone…');
    const outcome = await this.#request.run(run, (error) => this.complain(error));
    this.#showActive(false);
    this.show(outcome === 'failed' ? 'failed' : 'stopped', outcome === 'failed' ? '' : 'Stopped.');
  }

  #stop() {
    this.#button.disabled = true;
    this.#request.stop();
  }

  #showActive(active) {
    this.#button.disabled = false;
    this.#button.dataset.active = String(active);
    this.#label.textContent = active ? 'Stop' : 'Start';
    this.#meter.hidden = !active;
  }

  #showLevel(level) {
    this.#meter.style.setProperty('--level', level.toFixed(3));
    this.#meter.setAttribute('aria-valuenow', String(Math.round(level * 100)));
  }
}

function aborted(signal) {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', resolve, { once: true });
  });
}

/** Change a scrolling list of words, and keep its end in view unless the reader has scrolled up. */
export function write(list, change) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 24;
  change();
  if (atEnd) list.scrollTop = list.scrollHeight;
}
