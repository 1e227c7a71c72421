// The Speak view: text in, audio out while it is still being made.

import { ServiceError, ask, inWords } from '../service/api.js';
import { ModelPicker, loadVoices, voiceLabel } from '../service/catalogue.js';
import { bytesOf, eventsOf, isEventStream, piecesOf } from '../service/sse.js';
import { Take } from '../sound/take.js';
import { byId, disable, fillSelect, hideError, option, publish, reveal, seconds, showError } from '../ui/elements.js';
import { OneAtATime, whenAborted } from '../ui/one-at-a-time.js';
import { openView } from '../ui/views.js';
import { offer, startDownload } from './download.js';
import { remember, startHistory } from './history.js';
import { fieldOf, fillIn, settings, startSettings } from './settings.js';
import { clearStage, gaps, more, pauseStage, playArriving, rest, showWhole, wake, words } from './stage.js';

const USUAL_SAMPLE_RATE = 24000;

/**
 * What one click lets speak.
 * @typedef {object} Speech
 * @property {import('./settings.js').SpeechSettings} settings
 * @property {object} request
 * @property {string} voiceLabel
 * @property {Take | null} take once its sound begins
 * @property {import('../sound/take.js').TimedWord[]} words
 */

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
let voicesOffered = Promise.resolve(); // those of the model that is chosen
let voicesFailed = false;
let current = /** @type {Speech | null} */ (null);
const remembered = /** @type {WeakSet<Take>} */ (new WeakSet());

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
    if (event.key === 'Escape' && !stopButton.disabled && !document.querySelector('dialog[open]')) stop();
  });
  window.addEventListener('pagehide', () => rememberSpeech(current)); // what has arrived of a speech that is still made
  if (/Mac|iPhone|iPad/.test(navigator.platform)) byId('speak-shortcut').textContent = '⌘';
}

export function offerSpeechModels(models) {
  picker.fill(models);
  if (picker.choose(wanted.model)) wanted.model = '';
}

/** Choose a model, now or when the service has it. */
export function preferSpeechModel(id) {
  wanted.model = '';
  picker.prefer(id);
}

/** Ask for the voices again: the person's own have changed. */
export function refreshVoices() {
  return offerVoices(picker.model);
}

/** Speak the text with a voice. */
export function tryVoice(model, id) {
  openView('speak');
  wanted = { model: '', voice: id };
  if (picker.model?.id === model) offerVoices(picker.model);
  else picker.choose(model);
  speak();
}

function offerVoices(model) {
  speakButton.disabled = !model;
  voicesOffered = fillVoices(model);
  return voicesOffered;
}

/** Until the voices of a model are known none are offered: those of another model would be refused. */
async function fillVoices(model) {
  wanted.voice ||= voice.value;
  showVoices([]);
  let found = [];
  const outcome = await voiceRequest.run(async (signal) => {
    if (model) found = await loadVoices(model.id, signal);
  }, (error) => showError(errorLine, error));
  if (outcome === 'replaced') return voicesOffered;
  if (voicesFailed && outcome === 'done') hideError(errorLine);
  voicesFailed = outcome === 'failed';
  showVoices(found);
  if (found.some(({ id }) => id === wanted.voice)) voice.value = wanted.voice;
  wanted.voice = '';
  describeVoice();
}

function showVoices(offered) {
  voices = offered;
  fillSelect(voice, voices.map((entry) => option(entry.id, voiceLabel(entry))));
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
  const speech = /** @type {Speech} */ ({ take: null, words: [] });
  current = speech;
  const outcome = await request.run((signal) => speakOnce(speech, signal), (error) => complain(inWords(error), fieldOf(error.param)));
  rememberSpeech(speech);
  if (outcome === 'replaced') return;
  if (speech.take?.samples) offerSpeech(speech);
  if (outcome === 'done') finishWhenHeard(speech);
  else settle(outcome, outcome === 'stopped' ? stoppedWords(speech) : failedWords(speech));
}

/** @param {Speech} speech gets what it becomes @param {AbortSignal} signal */
async function speakOnce(speech, signal) {
  const clickedAt = performance.now();
  const woken = wake(); // inside the click
  await Promise.race([voicesOffered, whenAborted(signal)]);
  signal.throwIfAborted();
  Object.assign(speech, { settings: settings(), request: speechRequest(), voiceLabel: chosenLabel() });
  const streamed = { ...speech.request, response_format: 'pcm', ...(picker.model.motet.word_timestamps && { stream_format: 'sse', word_timestamps: true }) };
  const [response] = await Promise.all([ask('/v1/audio/speech', { json: streamed, signal }), woken]);
  const take = new Take(Number(response.headers.get('x-sample-rate')) || USUAL_SAMPLE_RATE);
  await wake(take.sampleRate);
  signal.throwIfAborted();
  speech.take = take;
  warn(response.headers);
  playArriving(take, { clickedAt, onSound: begun, onEnd: () => settle('done', doneWords(take)) });
  await collect(response, speech);
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

async function collect(response, speech) {
  let whole = false;
  try {
    for await (const sound of isEventStream(response) ? soundOf(eventsOf(response), speech) : piecesOf(response)) {
      speech.take.append(sound);
      if (speech === current) more();
    }
    whole = true;
  } finally {
    speech.take.finish({ whole });
  }
}

/** The sound of events; their words are shown. Throws a ServiceError if they end before the speech does. */
async function* soundOf(events, speech) {
  let done = false;
  for await (const event of events) {
    if (event.words) {
      speech.words.push(...event.words);
      if (speech === current) words.add(event.words);
    }
    if (event.audio) yield bytesOf(event.audio);
    done ||= event.type === 'speech.audio.done';
  }
  if (!done) throw new ServiceError('The connection broke before the speech was complete.');
}

function begun() {
  setState('speaking');
  status.textContent = 'Speaking…';
  reveal(byId('speak-transport'));
}

function finishWhenHeard({ take }) {
  if (!take.samples) {
    settle('failed', '');
    complain('The service sent no sound for this text.');
    return;
  }
  more();
}

function doneWords(take) {
  const paused = gaps() ? ` It paused ${gaps() === 1 ? 'once' : `${gaps()} times`} for more.` : '';
  return `Done: ${seconds(take.seconds)} of audio.${paused}`;
}

function stoppedWords({ take }) {
  return take?.samples ? `Stopped. ${seconds(take.seconds)} arrived and can be saved.` : 'Stopped.';
}

function stop() {
  const wasAsking = request.busy;
  request.stop();
  if (!wasAsking) settle('stopped', 'Stopped.');
}

function failedWords({ take }) {
  return take?.samples ? `It broke off. ${seconds(take.seconds)} arrived and can be saved.` : '';
}

function beginAnew() {
  clearStage();
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

function chosenLabel() {
  return voices.find(({ id }) => id === voice.value)?.name || voice.value || picker.model.id;
}

function offerSpeech({ take, words: spokenWords, request: body, voiceLabel: label }) {
  offer({ take, words: spokenWords, request: body, name: `motet-${label}` });
}

/** Keep what there is of a speech in the history, once. @param {Speech | null} speech */
function rememberSpeech(speech) {
  const take = speech?.take;
  if (!take?.samples || remembered.has(take)) return;
  remembered.add(take);
  const { settings: made, request: body, voiceLabel: label, words: spokenWords } = speech;
  remember({
    at: Date.now(),
    settings: made,
    request: body,
    voiceLabel: label,
    pcm: take.toPcm(),
    sampleRate: take.sampleRate,
    seconds: take.seconds,
    whole: take.whole,
    words: spokenWords,
  });
}

/** Show something of the history again. Of entries that are opened in a row, and of speech, what was asked for last is shown. */
async function openEntry(entry) {
  clearErrors();
  beginAnew();
  disable(stopButton, true, speakButton);
  const outcome = await request.run(async (signal) => {
    const take = await Take.from(entry.pcm, entry.sampleRate, entry.whole);
    signal.throwIfAborted();
    remembered.add(take);
    showEntry(entry, take);
  }, (error) => complain(inWords(error)));
  if (outcome === 'failed') settle('failed', '');
}

/** Its sound, its words, and the settings that made it. */
function showEntry({ settings: made, request: body, voiceLabel: label, words: spokenWords, whole }, take) {
  current = { settings: made, request: body, voiceLabel: label, words: spokenWords, take };
  fillIn(made);
  wanted = { model: '', voice: made.voice };
  if (!picker.choose(made.model)) wanted.voice = '';
  words.add(spokenWords);
  showWhole(take);
  offerSpeech(current);
  setState('idle');
  status.textContent = whole ? 'From the history.' : 'From the history: a part of it.';
  reveal(byId('speak-transport'));
}

function complain(message, field) {
  showError(errorLine, message);
  field?.setAttribute('aria-invalid', 'true');
  field?.focus();
}

function clearErrors() {
  pauseStage();
  hideError(errorLine);
  voicesFailed = false;
  for (const name of ['input', 'model', 'voice', 'speed', 'instructions', 'seed']) fieldOf(name).removeAttribute('aria-invalid');
}
