// What this tab still wants of models: to load those that are being added, and to say when those that are loaded can be used.

const STORE = 'motet-models-to-load';
const MOST_LOOKS = 20; // another gateway hears of a new model within some seconds

/** Names of models, kept over a reload of the tab. */
export class ModelsToLoad {
  #names = new Set(readStored());

  has(id) {
    return this.#names.has(id);
  }

  get size() {
    return this.#names.size;
  }

  add(id) {
    this.#names.add(id);
    this.#store();
  }

  delete(id) {
    this.#names.delete(id);
    this.#store();
  }

  #store() {
    try {
      sessionStorage.setItem(STORE, JSON.stringify([...this.#names]));
    } catch {
      // Storage is off: a reload forgets them.
    }
  }
}

function readStored() {
  try {
    const stored = JSON.parse(sessionStorage.getItem(STORE) ?? '[]');
    return Array.isArray(stored) ? stored : [];
  } catch {
    return [];
  }
}

/** Models that the service was asked to load, until it says how that ended. */
export class ModelsThatLoad {
  #asked = new Map();

  get size() {
    return this.#asked.size;
  }

  /** @param {string} id @param {number} since when the service began, in Unix seconds */
  add(id, since) {
    this.#asked.set(id, { since, looks: MOST_LOOKS });
  }

  /**
   * How the loading of a model goes on. A gateway that has not heard of it yet may still say how it was before.
   * @param {import('./facts.js').ModelFacts} model
   * @returns {'none' | 'loading' | 'served' | 'failed'}
   */
  outcome({ id, phase, since }) {
    const asked = this.#asked.get(id);
    if (!asked) return 'none';
    const outdated = phase !== 'served' && phase !== 'loading' && (phase !== 'load-failed' || (since > 0 && since < asked.since));
    if (phase === 'loading' || (outdated && (asked.looks -= 1) > 0)) return 'loading';
    this.#asked.delete(id);
    return phase === 'served' ? 'served' : 'failed';
  }
}
