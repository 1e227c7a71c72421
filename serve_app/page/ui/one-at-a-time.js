// Work that can be stopped, one piece at a time.

import { wasCancelled } from '../service/api.js';

/** Runs one piece of work at a time: starting another, or stop(), cancels the one before. */
export class OneAtATime {
  #controller = null;

  get busy() {
    return this.#controller !== null;
  }

  /**
   * @param {(signal: AbortSignal) => Promise<unknown>} work
   * @param {(error: unknown) => void} onError
   * @returns {Promise<'done' | 'stopped' | 'failed' | 'replaced'>} `replaced` when newer work has taken over
   */
  async run(work, onError) {
    this.stop();
    const controller = new AbortController();
    this.#controller = controller;
    const outcome = await this.#outcomeOf(work, controller, onError);
    if (this.#controller !== controller) return 'replaced';
    this.#controller = null;
    return outcome;
  }

  stop() {
    this.#controller?.abort();
  }

  async #outcomeOf(work, controller, onError) {
    try {
      await work(controller.signal);
      return controller.signal.aborted ? 'stopped' : 'done';
    } catch (error) {
      if (controller.signal.aborted || wasCancelled(error)) return 'stopped';
      onError(error);
      return 'failed';
    }
  }
}

/** Rejects when a signal aborts. @param {AbortSignal} signal @returns {Promise<never>} */
export function whenAborted(signal) {
  const aborted = new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
  aborted.catch(() => {});
  return aborted;
}
