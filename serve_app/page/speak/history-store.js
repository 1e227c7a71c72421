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
 * @property {boolean} whole whether nothing of it is missing
 * @property {import('../sound/take.js').TimedWord[]} words
 */

let opened = null;

/** The newest first. @returns {Promise<HistoryEntry[]>} */
export async function entries() {
  const all = await wait((await database()).transaction(STORE).objectStore(STORE).getAll());
  return all.reverse().map((entry) => ({ whole: true, ...entry })); // older versions kept whole ones only
}

/** Keep an entry; the oldest make room for it. @param {HistoryEntry} entry */
export async function keep(entry) {
  if (entry.pcm.size > MOST_BYTES) return;
  await change((store) => {
    store.add(entry);
    store.transaction.commit(); // at once: the tab may be closed before anything else happens
  });
  await change(makeRoom);
}

/** @param {number} id */
export async function forget(id) {
  await change((store) => store.delete(id));
}

export async function clear() {
  await change((store) => store.clear());
}

/** Deletes the oldest entries above the limits, in one transaction: of two that cross, the second sees what the first left. */
function makeRoom(store) {
  let [number, bytes] = [0, 0];
  store.openCursor(null, 'prev').addEventListener('success', ({ target: { result: cursor } }) => {
    if (!cursor) return;
    number += 1;
    bytes += cursor.value.pcm.size;
    if (number > MOST_ENTRIES || bytes > MOST_BYTES) cursor.delete();
    cursor.continue();
  });
}

/** Changes the store; resolves when the browser has it for good. @param {(store: IDBObjectStore) => void} how */
async function change(how) {
  const transaction = (await database()).transaction(STORE, 'readwrite');
  const done = new Promise((resolve, reject) => {
    transaction.addEventListener('complete', resolve);
    transaction.addEventListener('abort', () => reject(transaction.error));
  });
  how(transaction.objectStore(STORE));
  await done;
}

function database() {
  opened ??= open();
  return opened;
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
