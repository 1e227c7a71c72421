// A place for a recording: choose a file, drop it, record it, or take a sample that the service itself makes.

import { startRecording } from '../sound/recorder.js';
import { clock, publish } from './elements.js';

const template = document.getElementById('recording-template');

/**
 * @typedef {object} RecordingHandlers
 * @property {(file: File) => void} onFile a recording is there
 * @property {(error: unknown) => void} onError it could not be recorded or made
 * @property {() => void} [onBegin] something new begins: earlier errors are out of date
 * @property {() => Promise<File>} [sample] makes a sample
 */

/** The input in the element with `data-recording=name`; its parts have the ids `name-file`, `name-record`, `name-sample`. */
export class RecordingInput {
  #name;
  #on;
  #drop;
  #input;
  #fileName;
  #record;
  #recordLabel;
  #time;
  #level;
  #sample;
  #recording = null;
  #allowed = false;

  /** @param {string} name @param {RecordingHandlers} handlers */
  constructor(name, handlers) {
    this.#name = name;
    this.#on = handlers;
    const place = document.querySelector(`[data-recording="${name}"]`);
    const parts = template.content.cloneNode(true);
    const find = (selector) => parts.querySelector(selector);
    this.#drop = find('.drop');
    this.#input = find('input');
    this.#fileName = find('.drop-name');
    this.#record = find('.record');
    this.#recordLabel = find('.record-label');
    this.#time = find('.record-time');
    this.#level = find('.level');
    this.#sample = find('.sample');
    this.#input.id = `${name}-file`;
    find('label').htmlFor = this.#input.id;
    this.#record.id = `${name}-record`;
    this.#sample.id = `${name}-sample`;
    this.#sample.textContent = place.dataset.sample ?? '';
    this.#sample.hidden = !handlers.sample;
    place.append(parts);
    this.#listen();
    this.allow(false);
  }

  /** Whether recordings are taken. */
  allow(allowed) {
    this.#allowed = allowed;
    for (const control of [this.#input, this.#record, this.#sample]) control.disabled = !allowed;
  }

  /** Show the name of the recording; empty for none. */
  show(fileName) {
    this.#fileName.textContent = fileName;
  }

  /** End a recording from the microphone, if one is made; what was recorded is thrown away. */
  cancel() {
    this.#recording?.cancel();
  }

  #listen() {
    this.#input.addEventListener('change', () => {
      const [file] = this.#input.files;
      this.#input.value = '';
      if (file) this.#take(file);
    });
    let depth = 0;
    const light = (change) => {
      depth = Math.max(0, depth + change);
      this.#drop.classList.toggle('over', depth > 0 && this.#allowed);
    };
    this.#drop.addEventListener('dragenter', () => light(+1));
    this.#drop.addEventListener('dragleave', () => light(-1));
    this.#drop.addEventListener('drop', (event) => {
      light(-depth);
      const [file] = event.dataTransfer.files;
      if (file && this.#allowed) this.#take(file);
    });
    this.#record.addEventListener('click', () => (this.#recording ? this.#recording.stop() : this.#begin()));
    this.#sample.addEventListener('click', () => this.#makeSample());
  }

  #take(file) {
    this.#on.onBegin?.();
    this.show(file.name);
    this.#on.onFile(file);
  }

  async #makeSample() {
    const label = this.#sample.textContent;
    this.#on.onBegin?.();
    this.#sample.disabled = true;
    this.#sample.textContent = 'Making the sample…';
    try {
      this.#take(await this.#on.sample());
    } catch (error) {
      this.#on.onError(error);
    } finally {
      this.#sample.textContent = label;
      this.#sample.disabled = !this.#allowed;
    }
  }

  async #begin() {
    this.#on.onBegin?.();
    this.#record.disabled = true;
    try {
      this.#recording = await startRecording((level, seconds) => this.#measure(level, seconds));
      this.#show(true);
      const file = await this.#recording.done;
      if (file) this.#take(file);
    } catch (error) {
      this.#on.onError(error);
    } finally {
      this.#recording = null;
      this.#show(false);
      this.#record.disabled = !this.#allowed;
    }
  }

  #show(active) {
    publish(`${this.#name}Recording`, active);
    this.#record.disabled = false;
    this.#record.setAttribute('aria-pressed', String(active));
    this.#recordLabel.textContent = active ? 'Finish' : 'Record';
    this.#time.hidden = !active;
    this.#level.hidden = !active;
    this.#sample.hidden = active || !this.#on.sample;
    this.#measure(0, 0);
  }

  #measure(level, seconds) {
    this.#time.textContent = clock(seconds);
    this.#level.style.setProperty('--level', level.toFixed(3));
    this.#level.setAttribute('aria-valuenow', String(Math.round(level * 100)));
  }
}

/** A file that misses its place must not replace the page. */
export function guardAgainstStrayDrops() {
  for (const kind of ['dragover', 'drop']) {
    document.addEventListener(kind, (event) => {
      if (event.dataTransfer?.types.includes('Files')) event.preventDefault();
    });
  }
}
