// How fast downloads are, from how far they were at two looks.

const SMOOTH = 0.4; // of the newest figure: a single second says little

/** Bytes a second of each model that is being fetched. */
export class Rates {
  #seen = new Map();

  /** Note how far a download is; returns its rate, 0 while it is not known. @param {number} now seconds */
  note(id, bytes, now) {
    const before = this.#seen.get(id);
    if (!before || bytes < before.bytes) {
      this.#seen.set(id, { bytes, at: now, rate: 0 });
      return 0;
    }
    if (now <= before.at) return before.rate;
    const newest = (bytes - before.bytes) / (now - before.at);
    const rate = before.rate ? SMOOTH * newest + (1 - SMOOTH) * before.rate : newest;
    this.#seen.set(id, { bytes, at: now, rate });
    return rate;
  }

  forget(id) {
    this.#seen.delete(id);
  }
}
