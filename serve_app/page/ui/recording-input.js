// A place for a recording: choose a file, drop it, record it, or take a sample that the service itself makes.

import { startRecording } from '../sound/recorder.js';
import { clock, publish } from './elements.js';
import { OneAtATime } from './one-at-a-time.js';

const template = document.getElementById('recording-template');

/** What is under way. @typedef {'idle' | 'opening' | 'recording' | 'sampling'} RecordingState */

const RECORD_LABELS = { idle: 'Record', opening: 'Cancel', recording: 'Finish', sampling: 'Record' };

/**
 * @typedef {object} RecordingHandlers
 * @property {(file: File) => void} onFile a recording is there
 * @property {(error: unknown) => void} onError it could not be recorded or made
 * @property {() => void} [onBegin] something new begins: earlier errors are out of date
 * @property {(signal: AbortSignal) => Promise<File>} [sample] makes a sample
 */

/**
 * The input in the element with `data-recording=name`; its parts have the ids `name-file`, `name-record`, `name-sample`.
 * What begins last wins: a file that is chosen ends a recording, and a recording ends the making of a sample.
 */
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
  #sampleLabel;
  #rounds = new OneAtATime();
  #state = /** @type {RecordingState} */ ('idle');
  #finish = () => {};
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
    this.#sampleLabel = place.dataset.sample ?? '';
    this.#input.id = `${name}-file`;
    find('label').htmlFor = this.#input.id;
    this.#record.id = `${name}-record`;
    this.#sample.id = `${name}-sample`;
    place.append(parts);
    this.#listen();
    this.#refresh();
  }

  /** Whether recordings are taken. A recording that is being made can still be finished. */
  allow(allowed) {
    this.#allowed = allowed;
    this.#refresh();
  }

  /** Show the name of the recording; empty for none. */
  show(fileName) {
    this.#fileName.textContent = fileName;
  }

  /** End what is under way; what was recorded is thrown away. */
  cancel() {
    this.#rounds.stop();
  }

  #listen() {
    this.#input.addEventListener('change', () => {
      const [file] = this.#input.files;
      this.#input.value = '';
      if (file) this.#choose(file);
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
      if (file && this.#allowed) this.#choose(file);
    });
    this.#record.addEventListener('click', () => this.#pressRecord());
    this.#sample.addEventListener('click', () => {
      if (this.#state !== 'sampling') this.#round('sampling', (signal) => this.#on.sample(signal));
    });
  }

  #choose(file) {
    this.cancel();
    this.#on.onBegin?.();
    this.#take(file);
  }

  #take(file) {
    this.show(file.name);
    this.#on.onFile(file);
  }

  #pressRecord() {
    if (this.#state === 'recording') this.#finish();
    else if (this.#state === 'opening') this.cancel();
    else this.#round('opening', (signal) => this.#makeRecording(signal));
  }

  /** One round of work that ends with a file. A round that was cancelled or replaced delivers nothing, and shows nothing more. */
  async #round(state, work) {
    this.#on.onBegin?.();
    let file = null;
    const outcome = await this.#rounds.run(async (signal) => {
      this.#enter(state);
      file = await work(signal);
    }, this.#on.onError);
    if (outcome === 'replaced') return;
    this.#enter('idle');
    if (outcome === 'done') this.#take(file);
  }

  async #makeRecording(signal) {
    const recording = await startRecording((level, seconds) => this.#measure(level, seconds), signal);
    this.#finish = recording.stop;
    this.#enter('recording');
    return recording.done;
  }

  #enter(state) {
    this.#state = state;
    this.#refresh();
    this.#measure(0, 0);
  }

  /** Shows the state, and whether recordings are taken. */
  #refresh() {
    const recording = this.#state === 'recording';
    const opening = this.#state === 'opening';
    const sampling = this.#state === 'sampling';
    publish(`${this.#name}Recording`, recording);
    this.#input.disabled = !this.#allowed;
    this.#record.disabled = !(this.#allowed || recording || opening);
    this.#record.dataset.active = String(recording);
    this.#recordLabel.textContent = RECORD_LABELS[this.#state];
    this.#time.hidden = !recording;
    this.#level.hidden = !recording;
    this.#sample.disabled = !this.#allowed;
    this.#sample.hidden = recording || opening || !this.#on.sample;
    this.#sample.textContent = sampling ? 'Making the sample…' : this.#sampleLabel;
    this.#sample.setAttribute('aria-busy', String(sampling));
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
