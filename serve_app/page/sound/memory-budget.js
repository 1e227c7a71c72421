// The memory that decoded audio may take: one budget for all that the page keeps, whichever view it belongs to.

const MOST_BYTES = 768 * 1024 * 1024; // decoded, an hour of stereo takes 1.4 GB

/** What does not fit into a budget. */
export class OverBudgetError extends Error {}

export class MemoryBudget {
  #most;
  #held = 0;

  /** @param {number} most bytes */
  constructor(most) {
    this.#most = most;
  }

  get held() {
    return this.#held;
  }

  /** Takes some of the budget; throws an OverBudgetError if not as much is left. @param {number} bytes */
  take(bytes) {
    if (this.#held + bytes > this.#most) throw new OverBudgetError();
    this.#held += bytes;
  }

  /** Gives back what was taken. @param {number} bytes */
  give(bytes) {
    this.#held -= bytes;
  }
}

export const decodedAudio = new MemoryBudget(MOST_BYTES);
