// The separation panel: a recording in, one recording out for each stem.

import { ask } from './api.js';
import { ModelPicker } from './catalogue.js';
import { OneAtATime, acceptFiles, byId, hideError, publish, seconds, showError, swapButtons } from './ui.js';
import { withTrueLengths } from './wav.js';

const USUAL_STEMS = ['speech', 'background'];

const fileInput = byId('separate-file');
const fileName = byId('separate-name');
const result = byId('separate-result');
const status = byId('separate-status');
const errorLine = byId('separate-error');
const againButton = byId('separate-again');
const stopButton = byId('separate-stop');

const request = new OneAtATime();
const picker = new ModelPicker('separate', 'separation', allow);

let file = null;
let urls = [];

export function startSeparate() {
  setState('idle');
  acceptFiles(byId('separate-drop'), fileInput, separate);
  againButton.addEventListener('click', () => separate(file));
  stopButton.addEventListener('click', () => request.stop());
}

export function offerSeparationModels(models) {
  picker.fill(models);
}

function allow(model) {
  fileInput.disabled = !model;
  againButton.disabled = !model;
}

async function separate(chosen) {
  file = chosen;
  begin();
  const startedAt = performance.now();
  const outcome = await request.run(separateEach, fail);
  if (outcome === 'replaced') return;
  swapButtons(stopButton, againButton);
  if (outcome === 'failed') return;
  setState(outcome);
  const took = seconds((performance.now() - startedAt) / 1000);
  status.textContent = outcome === 'done' ? `Done in ${took}.` : 'Stopped.';
}

/** One stem after the other: the first can be played while the second is made. */
async function separateEach(signal) {
  const { id, motet } = picker.model;
  for (const stem of motet.stems ?? USUAL_STEMS) {
    status.textContent = `Separating: ${stem}…`;
    const sound = await separateOne(id, stem, signal);
    signal.throwIfAborted();
    result.append(stemPlayer(stem, sound));
  }
}

async function separateOne(model, stem, signal) {
  const form = new FormData();
  form.append('file', file, file.name);
  form.append('model', model);
  form.append('stems', stem);
  form.append('response_format', 'wav');
  const response = await ask('/v1/audio/separations', { form, signal });
  return withTrueLengths(await response.blob());
}

function stemPlayer(stem, sound) {
  const url = URL.createObjectURL(sound);
  urls.push(url);
  const figure = document.createElement('figure');
  figure.className = 'stem';
  figure.dataset.stem = stem;
  figure.append(caption(stem, url), audio(stem, url));
  return figure;
}

function caption(stem, url) {
  const line = document.createElement('figcaption');
  const name = document.createElement('span');
  name.textContent = stem;
  const link = document.createElement('a');
  link.className = 'link';
  link.href = url;
  link.download = `${baseName(file.name)}-${stem}.wav`;
  link.textContent = 'Download';
  link.setAttribute('aria-label', `Download ${stem}`);
  line.append(name, link);
  return line;
}

function audio(stem, url) {
  const element = document.createElement('audio');
  element.controls = true;
  element.preload = 'metadata';
  element.src = url;
  element.setAttribute('aria-label', stem);
  return element;
}

function baseName(name) {
  return name.replace(/\.[^.]+$/, '') || 'motet';
}

function begin() {
  hideError(errorLine);
  result.replaceChildren();
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [];
  fileName.textContent = file.name;
  swapButtons(againButton, stopButton);
  setState('separating');
}

function fail(error) {
  setState('failed');
  status.textContent = '';
  showError(errorLine, error);
}

function setState(state) {
  publish('separateState', state);
}
