// The list of what was spoken in this browser.

import { byId, confirmed, element, seconds } from '../ui/elements.js';
import { clear, entries, forget, keep } from './history-store.js';

/** @typedef {import('./history-store.js').HistoryEntry} HistoryEntry */

const EMPTY = 'What you let speak is kept here, in this browser only.';
const OFF = 'This browser keeps no history.';

const list = byId('history-list');
const note = byId('history-note');
const clearButton = byId('history-clear');

let onOpen = (/** @type {HistoryEntry} */ _entry) => {};

/** @param {(entry: HistoryEntry) => void} open shows an entry again */
export function startHistory(open) {
  onOpen = open;
  confirmed(clearButton, 'Clear all?', () => change(clear));
  change(async () => {});
}

/** @param {HistoryEntry} entry */
export function remember(entry) {
  return change(() => keep(entry));
}

async function change(how) {
  try {
    await how();
    show(await entries());
  } catch {
    note.textContent = OFF; // a private window, or a full disk
    note.hidden = false;
  }
}

function show(all) {
  list.replaceChildren(...all.map(row));
  note.textContent = EMPTY;
  note.hidden = all.length > 0;
  clearButton.hidden = all.length === 0;
}

function row(entry) {
  const words = entry.settings.input.trim();
  const open = element('button', { type: 'button', className: 'row-main' },
    element('span', { className: 'row-title', textContent: words.slice(0, 200) }),
    element('span', { className: 'hint', textContent: `${entry.voiceLabel}, ${seconds(entry.seconds)}, ${when(entry.at)}` }));
  open.addEventListener('click', () => onOpen(entry));
  const remove = element('button', { type: 'button', className: 'icon', textContent: '×' });
  remove.setAttribute('aria-label', `Delete “${words.slice(0, 40)}”`);
  remove.addEventListener('click', () => change(() => forget(entry.id)));
  return element('li', {}, open, remove);
}

function when(at) {
  const date = new Date(at);
  const today = date.toDateString() === new Date().toDateString();
  return today ? date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' }) : date.toLocaleDateString();
}
