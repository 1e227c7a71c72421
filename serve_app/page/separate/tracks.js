// Tracks under one clock: each with its spectrogram, and with buttons to hear it alone, to mute it, and to save it.

import { durationOf } from '../sound/duration.js';
import { OverBudgetError } from '../sound/memory-budget.js';
import { Mixer } from '../sound/mixer.js';
import { drawSpectrogram } from '../sound/spectrogram.js';
import { save } from '../ui/clipboard.js';
import { element, publish } from '../ui/elements.js';
import { Transport } from '../ui/transport.js';

const UNPLAYABLE = 'This browser cannot play this track here. It can be saved.';
const TOO_LONG = 'This track is too long to be played here. It can be saved.';

const dark = matchMedia('(prefers-color-scheme: dark)');

export class Tracks {
  #box;
  #transport;
  #mixer = /** @type {Mixer | null} */ (null);
  #rows = /** @type {{name: string, solo: HTMLButtonElement, mute: HTMLButtonElement, canvas: HTMLCanvasElement, buffer: AudioBuffer}[]} */ ([]);

  /** @param {HTMLElement} box @param {HTMLElement} transport */
  constructor(box, transport) {
    this.#box = box;
    this.#transport = new Transport(transport, (position) => this.#show(position));
    dark.addEventListener('change', () => this.#rows.forEach(({ canvas, buffer }) => drawSpectrogram(canvas, buffer)));
    box.addEventListener('click', (event) => this.#seek(event));
  }

  pause() {
    this.#transport.pause();
  }

  clear() {
    this.#transport.use(null);
    this.#mixer?.close();
    this.#mixer = null;
    this.#rows = [];
    this.#box.replaceChildren();
    this.#showStates();
    this.#show(0);
  }

  /**
   * @param {string} name @param {Blob} sound @param {string} fileName
   * @param {{muted?: boolean}} [options] whether it is silent at first
   */
  async add(name, sound, fileName, { muted = false } = {}) {
    this.#mixer ??= new Mixer();
    const mixer = this.#mixer;
    const { buffer, otherwise } = await decoded(mixer, name, sound, muted);
    if (mixer !== this.#mixer) return; // cleared meanwhile
    this.#row(name, sound, fileName, buffer, otherwise);
    if (buffer) this.#transport.use(mixer);
    this.#showStates();
  }

  #row(name, sound, fileName, buffer, otherwise) {
    const download = button('Save', `Save ${name}`, () => save(sound, fileName));
    const head = element('div', { className: 'track-head' }, element('h4', { textContent: name }));
    const row = element('article', { className: 'track' }, head);
    row.dataset.track = name;
    if (buffer) {
      const canvas = element('canvas', {});
      canvas.setAttribute('role', 'img');
      canvas.setAttribute('aria-label', `Spectrogram of ${name}, ${buffer.duration.toFixed(1)} seconds`);
      const solo = button('Solo', `Hear ${name} alone`, () => this.#toggle(name, 'solo'));
      const mute = button('Mute', `Mute ${name}`, () => this.#toggle(name, 'mute'));
      head.append(solo, mute, download);
      row.append(element('div', { className: 'spectrogram' }, canvas));
      this.#rows.push({ name, solo, mute, canvas, buffer });
    } else {
      head.append(download);
      row.append(element('p', { className: 'hint', textContent: otherwise }));
    }
    this.#box.append(row);
    if (buffer) drawSpectrogram(this.#rows.at(-1).canvas, buffer);
  }

  #toggle(name, what) {
    const { muted, solo } = this.#mixer.stateOf(name);
    if (what === 'solo') this.#mixer.setSolo(name, !solo);
    else this.#mixer.setMuted(name, !muted);
    this.#showStates();
  }

  #showStates() {
    const heard = [];
    for (const row of this.#rows) {
      const state = this.#mixer.stateOf(row.name);
      row.solo.setAttribute('aria-pressed', String(state.solo));
      row.mute.setAttribute('aria-pressed', String(state.muted));
      row.canvas.closest('.track').classList.toggle('silent', !state.heard);
      if (state.heard) heard.push(row.name);
    }
    publish('tracksHeard', heard.join(','));
  }

  #show(position) {
    const { duration } = this.#mixer ?? { duration: 0 };
    this.#box.style.setProperty('--at', duration ? String(position / duration) : '0');
    publish('trackSeconds', position.toFixed(2));
  }

  /** A click into a spectrogram seeks; for the keyboard there is the position of the transport. */
  #seek(event) {
    const place = event.target.closest('.spectrogram');
    if (!place || !this.#mixer) return;
    const { left, width } = place.getBoundingClientRect();
    this.#transport.seek(((event.clientX - left) / width) * this.#mixer.duration);
  }
}

/** A track in a mixer, or in words why it is not there. */
async function decoded(mixer, name, sound, muted) {
  const seconds = await durationOf(sound);
  if (Number.isNaN(seconds)) return { buffer: null, otherwise: UNPLAYABLE };
  try {
    return { buffer: await mixer.add(name, sound, { seconds, muted }), otherwise: '' };
  } catch (error) {
    return { buffer: null, otherwise: error instanceof OverBudgetError ? TOO_LONG : UNPLAYABLE };
  }
}

function button(label, name, onClick) {
  const made = element('button', { type: 'button', className: 'button small', textContent: label });
  made.setAttribute('aria-label', name);
  made.addEventListener('click', onClick);
  return made;
}
