// Small helpers that the panels share.

import { inWords, wasCancelled } from './api.js';

export function byId(id) {
  return document.getElementById(id);
}

export function showError(element, error) {
  element.textContent = typeof error === 'string' ? error : inWords(error);
  element.hidden = false;
}

export function hideError(element) {
  element.hidden = true;
  element.textContent = '';
}

/** Publish a plain fact on <body data-…>, for people with tools and for tests. */
export function publish(name, value) {
  document.body.dataset[name] = String(value);
}

export function withdraw(name) {
  delete document.body.dataset[name];
}

export function seconds(value) {
  if (value < 60) return `${value.toFixed(1)} s`;
  const minutes = Math.floor(value / 60);
  return `${minutes} min ${Math.floor(value % 60)} s`;
}

export function fillSelect(select, options) {
  select.replaceChildren(...options);
  select.disabled = options.length === 0;
}

export function option(value, label = value) {
  return new Option(label, value);
}

/** Hide or show a button without dropping the keyboard user's place. */
export function swapButtons(hide, show) {
  const hadFocus = hide && document.activeElement === hide;
  if (show) show.hidden = false;
  if (hide) hide.hidden = true;
  if (hadFocus) show?.focus();
}

/** A place to drop a file on, around a file input. */
export function acceptFiles(zone, input, onFile) {
  let depth = 0;
  const light = (change) => {
    depth = Math.max(0, depth + change);
    zone.classList.toggle('over', depth > 0 && !input.disabled);
  };
  input.addEventListener('change', () => {
    const [file] = input.files;
    input.value = '';
    if (file) onFile(file);
  });
  zone.addEventListener('dragenter', () => light(+1));
  zone.addEventListener('dragleave', () => light(-1));
  zone.addEventListener('drop', (event) => {
    light(-depth);
    const [file] = event.dataTransfer.files;
    if (file && !input.disabled) onFile(file);
  });
}

/** A file that misses its zone must not replace the page. */
export function guardAgainstStrayDrops() {
  for (const kind of ['dragover', 'drop']) {
    document.addEventListener(kind, (event) => {
      if (event.dataTransfer?.types.includes('Files')) event.preventDefault();
    });
  }
}

/** Copy text; on plain http the clipboard API is missing, and the old way still works. */
export async function copy(text, button) {
  const before = button.textContent;
  button.textContent = (await tryCopy(text)) ? 'Copied' : 'Copying is not allowed here';
  setTimeout(() => {
    button.textContent = before;
  }, 1500);
}

async function tryCopy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyTheOldWay(text);
  }
}

function copyTheOldWay(text) {
  const area = document.createElement('textarea');
  const { activeElement } = document;
  area.value = text;
  area.className = 'visually-hidden';
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  activeElement?.focus();
  return done;
}

/** Runs one piece of work at a time: starting another, or stop(), cancels the one before. */
export class OneAtATime {
  #controller = null;

  get busy() {
    return this.#controller !== null;
  }

  /** Returns 'done', 'stopped' or 'failed'; or 'replaced' when newer work has taken over. */
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
