// The list of what was spoken in this browser.

import { byId, confirmed, element, seconds } from '../ui/elements.js';
import { clear, entries, forget, keep } from './history-store.js';

/** @typedef {import('./history-store.js').HistoryEntry} HistoryEntry */

const EMPTY = 'What you let speak is kept here, in this browser only.';
const OFF = 'This browser keeps no history.';

const title = byId('history-title');
const list = byId('history-list');
const note = byId('history-note');
const clearButton = byId('history-clear');

let onOpen = (/** @type {HistoryEntry} */ _entry) => {};
let shown = Promise.resolve();

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

/** The change begins at once; the lists of changes that cross are shown one after another, so that the last is the newest. */
function change(how) {
  const changed = how();
  changed.catch(() => {}); // it is awaited below
  shown = shown.then(() => showAfter(changed));
  return shown;
}

async function showAfter(changed) {
  try {
    await changed;
    show(await entries());
  } catch {
    note.textContent = OFF; // a private window, or a full disk
    note.hidden = false;
  }
}

function show(all) {
  const restoreFocus = focusKeeper();
  list.replaceChildren(...all.map(row));
  note.textContent = EMPTY;
  note.hidden = all.length > 0;
  clearButton.hidden = all.length === 0;
  restoreFocus();
}

/** The keyboard stays at its entry, or at the one that has taken its place; without entries it goes to the title. */
function focusKeeper() {
  const { activeElement: focused } = document;
  const item = focused.closest('#history-list li');
  if (!item && focused !== clearButton) return () => {};
  const place = [...list.children].indexOf(item);
  return () => {
    if (item) {
      const next = list.querySelector(`[data-entry="${item.dataset.entry}"]`) ?? list.children[place] ?? list.lastElementChild;
      (next?.querySelector(focused.matches('.icon') ? '.icon' : '.row-main') ?? title).focus();
    } else if (clearButton.hidden) title.focus();
  };
}

function row(entry) {
  const words = entry.settings.input.trim();
  const about = [entry.voiceLabel, seconds(entry.seconds), ...(entry.whole ? [] : ['a part']), when(entry.at)];
  const open = element('button', { type: 'button', className: 'row-main' },
    element('span', { className: 'row-title', textContent: words.slice(0, 200) }),
    element('span', { className: 'hint', textContent: about.join(', ') }));
  open.addEventListener('click', () => onOpen(entry));
  const remove = element('button', { type: 'button', className: 'icon', textContent: '×' });
  remove.setAttribute('aria-label', `Delete “${words.slice(0, 40)}”`);
  remove.addEventListener('click', () => change(() => forget(entry.id)));
  const item = element('li', {}, open, remove);
  item.dataset.entry = String(entry.id);
  return item;
}

function when(at) {
  const date = new Date(at);
  const today = date.toDateString() === new Date().toDateString();
  return today ? date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' }) : date.toLocaleDateString();
}
