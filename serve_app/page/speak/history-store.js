// What was spoken in this browser, kept in IndexedDB and bounded. Nothing of it leaves the browser.

const DATABASE = 'motet-history';
const STORE = 'spoken';
const MOST_ENTRIES = 24;
const MOST_BYTES = 64 * 1024 * 1024;

/**
 * @typedef {object} HistoryEntry
 * @property {number} [id]
 * @property {number} at Unix time in ms
 * @property {import('./settings.js').SpeechSettings} settings
 * @property {object} request
 * @property {string} voiceLabel
 * @property {Blob} pcm 16-bit mono
 * @property {number} sampleRate Hz
 * @property {number} seconds
 * @property {import('../sound/take.js').TimedWord[]} words
 */

let opened = null;

/** The newest first. @returns {Promise<HistoryEntry[]>} */
export async function entries() {
  const all = await wait((await store('readonly')).getAll());
  return all.reverse();
}

/** Keep an entry; the oldest make room for it. @param {HistoryEntry} entry */
export async function keep(entry) {
  if (entry.pcm.size > MOST_BYTES) return;
  await wait((await store('readwrite')).add(entry));
  let bytes = 0;
  for (const [number, { id, pcm }] of (await entries()).entries()) {
    bytes += pcm.size;
    if (number >= MOST_ENTRIES || bytes > MOST_BYTES) await forget(id);
  }
}

/** @param {number} id */
export async function forget(id) {
  await wait((await store('readwrite')).delete(id));
}

export async function clear() {
  await wait((await store('readwrite')).clear());
}

async function store(mode) {
  opened ??= open();
  return (await opened).transaction(STORE, mode).objectStore(STORE);
}

function open() {
  const request = indexedDB.open(DATABASE, 1);
  request.addEventListener('upgradeneeded', () => {
    request.result.createObjectStore(STORE, { keyPath: 'id', autoIncrement: true });
  });
  return wait(request);
}

function wait(request) {
  return new Promise((resolve, reject) => {
    request.addEventListener('success', () => resolve(request.result));
    request.addEventListener('error', () => reject(request.error));
  });
}
