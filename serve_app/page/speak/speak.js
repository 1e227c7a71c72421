// The Speak view: text in, audio out while it is still being made.

import { ask, inWords } from '../service/api.js';
import { ModelPicker, loadVoices, voiceLabel } from '../service/catalogue.js';
import { bytesOf, eventsOf, isEventStream } from '../service/sse.js';
import { Take } from '../sound/take.js';
import { byId, disable, fillSelect, hideError, option, publish, seconds, showError } from '../ui/elements.js';
import { OneAtATime } from '../ui/one-at-a-time.js';
import { openView } from '../ui/views.js';
import { offer, startDownload } from './download.js';
import { remember, startHistory } from './history.js';
import { fieldOf, fillIn, settings, startSettings } from './settings.js';
import { clearStage, gaps, more, pauseStage, playArriving, rest, showWhole, wake, words } from './stage.js';

const USUAL_SAMPLE_RATE = 24000;

const form = byId('speak-form');
const voice = byId('speak-voice');
const voiceNote = byId('speak-voice-note');
const speakButton = byId('speak-button');
const stopButton = byId('stop-button');
const status = byId('speak-status');
const errorLine = byId('speak-error');

const request = new OneAtATime();
const voiceRequest = new OneAtATime();
const picker = new ModelPicker('speak', 'speech', (model) => offerVoices(model));

let voices = [];
let wanted = { model: '', voice: '' };
let take = /** @type {Take | null} */ (null);
let spoken = /** @type {{settings: import('./settings.js').SpeechSettings, request: object} | null} */ (null);

export function startSpeak() {
  wanted = { model: '', voice: '', ...startSettings() };
  clearStage();
  setState('idle');
  startDownload((error) => showError(errorLine, error));
  startHistory(openEntry);
  voice.addEventListener('change', describeVoice);
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    speak();
  });
  form.addEventListener('keydown', speakOnShortcut);
  stopButton.addEventListener('click', stop);
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && !stopButton.disabled) stop();
  });
  if (/Mac|iPhone|iPad/.test(navigator.platform)) byId('speak-shortcut').textContent = '⌘';
}

export function offerSpeechModels(models) {
  picker.fill(models);
  if (picker.choose(wanted.model)) wanted.model = '';
}

/** Ask for the voices again: the person's own have changed. */
export function refreshVoices() {
  return offerVoices(picker.model);
}

/** Speak the text with a voice. */
export async function tryVoice(model, id) {
  openView('speak');
  wanted = { model: '', voice: id };
  if (picker.model?.id !== model) picker.choose(model);
  await offerVoices(picker.model);
  speak();
}

async function offerVoices(model) {
  speakButton.disabled = !model;
  const before = wanted.voice || voice.value;
  voices = [];
  const outcome = await voiceRequest.run(async (signal) => {
    if (model) voices = await loadVoices(model.id, signal);
    hideError(errorLine);
  }, (error) => showError(errorLine, error));
  if (outcome === 'replaced') return;
  fillSelect(voice, voices.map((entry) => option(entry.id, voiceLabel(entry))));
  if (voices.some((entry) => entry.id === before)) voice.value = before;
  wanted.voice = '';
  describeVoice();
}

function describeVoice() {
  const chosen = voices.find((entry) => entry.id === voice.value);
  voiceNote.textContent = chosen?.description ?? (chosen ? 'Your own voice' : '');
}

function speakOnShortcut(event) {
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey) || speakButton.disabled) return;
  event.preventDefault();
  speak();
}

async function speak() {
  clearErrors();
  if (!settings().input.trim()) {
    complain('Write something to say first.', fieldOf('input'));
    return;
  }
  beginAnew();
  const outcome = await request.run(speakOnce, fail);
  if (outcome === 'replaced') return;
  if (take?.samples) keepTake();
  if (outcome === 'done') finishWhenHeard();
  if (outcome === 'stopped') settle('stopped', stoppedWords());
}

async function speakOnce(signal) {
  const clickedAt = performance.now();
  spoken = { settings: settings(), request: speechRequest() };
  const streamed = { ...spoken.request, response_format: 'pcm', ...(picker.model.motet.word_timestamps && { stream_format: 'sse', word_timestamps: true }) };
  const [response] = await Promise.all([ask('/v1/audio/speech', { json: streamed, signal }), wake()]);
  const arriving = new Take(Number(response.headers.get('x-sample-rate')) || USUAL_SAMPLE_RATE);
  await wake(arriving.sampleRate);
  signal.throwIfAborted();
  take = arriving;
  warn(response.headers);
  playArriving(take, { clickedAt, onSound: () => begun(), onEnd: () => settle('done', doneWords()) });
  await collect(response, arriving);
}

function speechRequest() {
  const { input, speed, instructions, seed } = settings();
  return {
    model: picker.model.id,
    input,
    voice: voice.value || undefined,
    speed,
    seed,
    ...(instructions && { instructions }),
  };
}

/** What the service leaves out, in words. */
function warn(headers) {
  const scripts = headers.get('x-motet-unread-scripts');
  const ignored = headers.get('x-motet-ignored')?.split(',').map((name) => name.trim()) ?? [];
  const warnings = [];
  if (scripts) warnings.push(`This voice does not read ${scripts}.`);
  if (ignored.includes('instructions')) warnings.push('This model follows no direction, and spoke in its usual way.');
  if (warnings.length) showError(errorLine, warnings.join(' '));
}

async function collect(response, arriving) {
  try {
    for await (const sound of isEventStream(response) ? soundOf(eventsOf(response), arriving) : piecesOf(response.body.getReader())) {
      arriving.append(sound);
      if (take === arriving) more();
    }
  } finally {
    arriving.finish();
  }
}

async function* piecesOf(reader) {
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

/** The sound of events; their words are shown. */
async function* soundOf(events, arriving) {
  for await (const event of events) {
    if (event.words && take === arriving) words.add(event.words);
    if (event.audio) yield bytesOf(event.audio);
  }
}

function begun() {
  setState('speaking');
  status.textContent = 'Speaking…';
}

function finishWhenHeard() {
  if (!take.samples) {
    settle('failed', '');
    complain('The service sent no sound for this text.');
    return;
  }
  more();
}

function doneWords() {
  const paused = gaps() ? ` It paused ${gaps() === 1 ? 'once' : `${gaps()} times`} for more.` : '';
  return `Done: ${seconds(take.seconds)} of audio.${paused}`;
}

function stoppedWords() {
  return take?.samples ? `Stopped. ${seconds(take.seconds)} arrived and can be saved.` : 'Stopped.';
}

function stop() {
  const wasAsking = request.busy;
  request.stop();
  if (!wasAsking) settle('stopped', 'Stopped.');
}

function fail(error) {
  settle('failed', take?.samples ? `It broke off. ${seconds(take.seconds)} arrived and can be saved.` : '');
  complain(inWords(error), fieldOf(error.param));
}

function beginAnew() {
  clearStage();
  take = null;
  offer(null);
  disable(stopButton, false);
  setState('waiting');
  status.textContent = 'Waiting for the first sound…';
}

function settle(state, message) {
  rest();
  disable(stopButton, true, speakButton);
  setState(state);
  status.textContent = message;
}

function setState(state) {
  publish('speakState', state);
}

function label() {
  return voices.find((entry) => entry.id === spoken.settings.voice)?.name ?? spoken.settings.voice ?? spoken.settings.model;
}

function keepTake() {
  offer({ take, words: words.words, request: spoken.request, name: `motet-${label()}` });
  remember({
    at: Date.now(),
    ...spoken,
    voiceLabel: label(),
    pcm: take.toPcm(),
    sampleRate: take.sampleRate,
    seconds: take.seconds,
    words: words.words,
  });
}

/** Show something of the history again: its sound, its words, and the settings that made it. */
async function openEntry(entry) {
  request.stop();
  clearErrors();
  clearStage();
  spoken = { settings: entry.settings, request: entry.request };
  take = await Take.from(entry.pcm, entry.sampleRate);
  fillIn(entry.settings);
  wanted = { model: '', voice: entry.settings.voice };
  picker.choose(entry.settings.model);
  words.add(entry.words);
  showWhole(take);
  offer({ take, words: entry.words, request: entry.request, name: `motet-${entry.voiceLabel}` });
  setState('idle');
  status.textContent = 'From the history.';
  byId('speak-transport').scrollIntoView({ block: 'nearest' });
}

function complain(message, field) {
  showError(errorLine, message);
  field?.setAttribute('aria-invalid', 'true');
  field?.focus();
}

function clearErrors() {
  pauseStage();
  hideError(errorLine);
  for (const name of ['input', 'model', 'voice', 'speed', 'instructions', 'seed']) fieldOf(name).removeAttribute('aria-invalid');
}
