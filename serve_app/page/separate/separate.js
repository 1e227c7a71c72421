// The Separate view: a recording in; its stems, its speech without noise, or its words in a new voice out.

import { ModelPicker, loadVoices, voiceLabel } from '../service/catalogue.js';
import { sampleInNoise } from '../service/samples.js';
import { baseName } from '../ui/clipboard.js';
import { byId, clock, element, fillSelect, hideError, option, publish, reveal, seconds, showError, swapButtons } from '../ui/elements.js';
import { OneAtATime, whenAborted } from '../ui/one-at-a-time.js';
import { RecordingInput } from '../ui/recording-input.js';
import { doTask } from './tasks.js';
import { Tracks } from './tracks.js';

const DOING = { stems: 'Separating…', enhance: 'Taking the noise away…', revoice: 'Listening, then speaking…' };
const ORIGINAL = 'recording';

const taskBox = byId('separate-tasks');
const stemBox = byId('separate-stems');
const voice = byId('separate-voice');
const background = byId('separate-background');
const status = byId('separate-status');
const progress = byId('separate-progress');
const phrases = byId('separate-phrases');
const errorLine = byId('separate-error');
const againButton = byId('separate-again');
const stopButton = byId('separate-stop');

const request = new OneAtATime();
const voiceRequest = new OneAtATime();
const tracks = new Tracks(byId('separate-result'), byId('separate-transport'));
const picker = new ModelPicker('separate', 'separation', offerStems);
const input = new RecordingInput('separate', {
  onFile: take, onError: (error) => showError(errorLine, error), onBegin: beginInput, sample: sampleInNoise,
});

let models = [];
let file = /** @type {File | null} */ (null);

export function startSeparate() {
  setState('idle');
  taskBox.addEventListener('change', showTask);
  againButton.addEventListener('click', start);
  stopButton.addEventListener('click', () => request.stop());
}

export function offerSeparationModels(offered) {
  models = offered;
  picker.fill(offered);
  offerVoices();
}

/** Choose a model, now or when the service has it. */
export function preferSeparationModel(id) {
  picker.prefer(id);
}

function task() {
  return taskBox.querySelector('input:checked').value;
}

function showTask() {
  for (const part of byId('view-separate').querySelectorAll('[data-for]')) {
    part.hidden = !part.dataset.for.split(' ').includes(task());
  }
  allow();
  if (task() === 'revoice') offerVoices();
}

function offerStems(model) {
  const names = model?.motet.stems ?? [];
  stemBox.replaceChildren(stemBox.querySelector('legend'), ...names.map((name) => {
    const box = element('input', { type: 'checkbox', name: 'stem', value: name, checked: true });
    return element('label', { className: 'check' }, box, name);
  }));
  allow();
}

/** The voices of all models that speak; the person's own once for the first model that uses them. */
async function offerVoices() {
  const speaking = models.filter(({ motet }) => motet.task === 'speech');
  await voiceRequest.run(async (signal) => {
    const lists = await Promise.all(speaking.map(async ({ id }) => (await loadVoices(id, signal)).map((each) => ({ ...each, of: id }))));
    const label = (each) => (speaking.length > 1 ? `${voiceLabel(each)}, ${each.of}` : voiceLabel(each));
    fillSelect(voice, onlyOnce(lists.flat()).map((each) => option(`${each.of}\n${each.id}`, label(each))));
  }, (error) => showError(errorLine, error));
  allow();
}

function onlyOnce(all) {
  return all.filter(({ id, object }, number) => object === 'voice' || all.findIndex((other) => other.id === id) === number);
}

function allow() {
  const possible = task() === 'revoice' ? voice.options.length > 0 : picker.model !== null;
  input.allow(possible);
  againButton.disabled = !possible;
}

function beginInput() {
  hideError(errorLine);
  tracks.pause(); // the microphone would hear them
}

/** @param {File} chosen */
function take(chosen) {
  request.stop();
  clearResult();
  file = chosen;
  start();
}

async function start() {
  const options = chosenOptions();
  if (task() === 'stems' && !options.stems.length) {
    showError(errorLine, 'Choose at least one stem.');
    if (!request.busy) {
      againButton.hidden = false;
      setState('idle');
      status.textContent = '';
    }
    return;
  }
  begin();
  const startedAt = performance.now();
  const outcome = await request.run((signal) => work(options, signal), (error) => showError(errorLine, error));
  if (outcome === 'replaced') return;
  progress.hidden = true;
  swapButtons(stopButton, againButton);
  setState(outcome);
  status.textContent = { done: `Done in ${seconds((performance.now() - startedAt) / 1000)}.`, stopped: 'Stopped.', failed: '' }[outcome];
}

function chosenOptions() {
  const [model, id] = voice.value.split('\n');
  return {
    task: task(),
    file,
    model: picker.model?.id ?? '',
    stems: [...stemBox.querySelectorAll('input:checked')].map(({ value }) => value),
    voice: { model, id },
    background: background.checked,
  };
}

async function work(options, signal) {
  const { name: fileName } = options.file;
  await Promise.race([tracks.add(ORIGINAL, options.file, fileName, { muted: true }), whenAborted(signal)]);
  const done = await doTask(options, { onProgress: showProgress, onPhrase: showPhrase }, signal);
  for (const [name, sound] of done.tracks) {
    signal.throwIfAborted(); // the tracks of another recording may be on the clock by now
    await tracks.add(name, sound, `${baseName(fileName)}-${name.replace(' ', '-')}.wav`);
  }
  signal.throwIfAborted();
  if (done.gaps.length) {
    const where = done.gaps.map(({ start, end }) => `${clock(start)} to ${clock(end)}`).join(', ');
    showError(errorLine, `Some of the recording could not be separated and is silent: ${where}.`);
  }
}

function showProgress(part, remainingSeconds) {
  progress.hidden = false;
  progress.value = Math.min(1, part);
  if (remainingSeconds !== null && remainingSeconds >= 1) status.textContent = `About ${seconds(remainingSeconds)} to go.`;
}

function showPhrase({ text, start: at }) {
  phrases.hidden = false;
  phrases.append(element('li', {}, element('span', { className: 'hint', textContent: clock(at) }), ` ${text}`));
}

function clearResult() {
  tracks.clear();
  phrases.replaceChildren();
  phrases.hidden = true;
  progress.value = 0;
}

function begin() {
  hideError(errorLine);
  clearResult();
  swapButtons(againButton, stopButton);
  setState('separating');
  status.textContent = DOING[task()];
  reveal(byId('separate-result'));
}

function setState(state) {
  publish('separateState', state);
}
