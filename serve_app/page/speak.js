// The speech panel: text in, audio out while it is still being made.

import { ServiceError, ask, inWords } from './api.js';
import { loadVoices, ModelPicker } from './catalogue.js';
import { Take } from './pcm.js';
import { Player } from './player.js';
import { SpokenWords } from './spoken-words.js';
import { eventsOf } from './sse.js';
import { OneAtATime, byId, fillSelect, hideError, option, publish, seconds, showError, withdraw } from './ui.js';
import { Waveform } from './waveform.js';

const USUAL_SAMPLE_RATE = 24000;

const form = byId('speak-form');
const text = byId('speak-text');
const voice = byId('speak-voice');
const voiceNote = byId('speak-voice-note');
const speed = byId('speak-speed');
const speedValue = byId('speak-speed-value');
const speakButton = byId('speak-button');
const stopButton = byId('stop-button');
const status = byId('speak-status');
const errorLine = byId('speak-error');
const firstFact = byId('speak-first');
const secondsFact = byId('speak-seconds');
const keep = byId('speak-keep');
const download = byId('speak-download');
const fieldOf = { input: text, voice, speed, model: byId('speak-model') };

const player = new Player();
const waveform = new Waveform(byId('speak-wave'));
const words = new SpokenWords(byId('speak-words'));
const request = new OneAtATime();
const voiceRequest = new OneAtATime();
const picker = new ModelPicker('speak', 'speech', offerVoices);

let voices = [];
let take = null;
let downloadUrl = '';

export function startSpeak() {
  showSpeed();
  setState('idle');
  publish('playedSeconds', 0);
  speed.addEventListener('input', showSpeed);
  voice.addEventListener('change', describeVoice);
  text.addEventListener('input', () => text.removeAttribute('aria-invalid'));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    speak();
  });
  form.addEventListener('keydown', speakOnShortcut);
  stopButton.addEventListener('click', stop);
  byId('replay-button').addEventListener('click', replay);
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && !stopButton.disabled) stop();
  });
  if (/Mac|iPhone|iPad/.test(navigator.platform)) byId('speak-shortcut').textContent = '⌘';
}

export function offerSpeechModels(models) {
  picker.fill(models);
}

async function offerVoices(model) {
  speakButton.disabled = !model;
  const before = voice.value;
  voices = [];
  const outcome = await voiceRequest.run(async (signal) => {
    if (model) voices = await loadVoices(model.id, signal);
    hideError(errorLine);
  }, (error) => showError(errorLine, error));
  if (outcome === 'replaced') return;
  fillSelect(voice, voices.map((entry) => option(entry.id, voiceLabel(entry))));
  if (voices.some((entry) => entry.id === before)) voice.value = before;
  describeVoice();
}

function voiceLabel({ id, name, language }) {
  return language ? `${id} (${language})` : name ?? id;
}

function describeVoice() {
  voiceNote.textContent = voices.find((entry) => entry.id === voice.value)?.description ?? '';
}

function showSpeed() {
  const label = `${Number(speed.value)}×`;
  speedValue.textContent = label;
  speed.setAttribute('aria-valuetext', `${Number(speed.value)} times`);
}

function speakOnShortcut(event) {
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey) || speakButton.disabled) return;
  event.preventDefault();
  speak();
}

async function speak() {
  clearErrors();
  if (!text.value.trim()) {
    complain('Write something to say first.', text);
    return;
  }
  beginAnew();
  const outcome = await request.run(speakOnce, fail);
  if (outcome === 'replaced') return;
  if (take) offerDownload();
  if (outcome === 'done') finishWhenHeard();
  if (outcome === 'stopped') settle('stopped', stoppedWords());
}

async function speakOnce(signal) {
  const clickedAt = performance.now();
  const [response] = await Promise.all([ask('/v1/audio/speech', { json: speechRequest(), signal }), player.wake()]);
  const arriving = new Take(Number(response.headers.get('x-sample-rate')) || USUAL_SAMPLE_RATE);
  await player.wake(arriving.sampleRate);
  signal.throwIfAborted();
  take = arriving;
  play(take, { start: (soundsAt) => firstSound(soundsAt - clickedAt) });
  await collect(response, arriving);
}

function speechRequest() {
  return {
    model: picker.model.id,
    input: text.value,
    voice: voice.value || undefined,
    speed: Number(speed.value),
    response_format: 'pcm',
    ...(picker.model.motet.word_timestamps && { stream_format: 'sse', word_timestamps: true }),
  };
}

async function collect(response, arriving) {
  const inEvents = response.headers.get('content-type')?.startsWith('text/event-stream');
  try {
    for await (const sound of inEvents ? soundOf(eventsOf(response), arriving) : bytesOf(response.body.getReader())) {
      arriving.append(sound);
      if (take === arriving) player.more();
    }
  } finally {
    arriving.finish();
  }
}

async function* bytesOf(reader) {
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

/** The sound of events; their words are shown. Throws what an error event says. */
async function* soundOf(events, arriving) {
  for await (const event of events) {
    if (event.error) throw new ServiceError(event.error.message ?? String(event.error), event.error);
    if (event.words && take === arriving) words.add(event.words);
    if (event.audio) yield Uint8Array.from(atob(event.audio), (letter) => letter.charCodeAt(0));
  }
}

function play(played, { start }) {
  player.play(played, { start, progress: showProgress, end: heardAll });
  waveform.follow(played, () => player.heardSeconds);
  words.follow(() => player.heardSeconds);
}

function firstSound(delayMs) {
  const rounded = Math.round(delayMs);
  firstFact.textContent = `${rounded} ms`;
  publish('firstSoundMs', rounded);
  setState('speaking');
  status.textContent = 'Speaking…';
}

function showProgress() {
  secondsFact.textContent = seconds(take.seconds);
  publish('playedSeconds', player.scheduledSeconds.toFixed(3));
}

function finishWhenHeard() {
  if (!take.samples) {
    settle('failed', '');
    complain('The service sent no sound for this text.');
    return;
  }
  player.more();
}

function heardAll() {
  settle('done', doneWords());
}

function doneWords() {
  const pauses = player.gaps ? ` It paused ${player.gaps === 1 ? 'once' : `${player.gaps} times`} for more.` : '';
  return `Done: ${seconds(take.seconds)} of audio.${pauses}`;
}

function stoppedWords() {
  return take?.samples ? `Stopped. ${seconds(take.seconds)} arrived and can be kept.` : 'Stopped.';
}

function stop() {
  const wasAsking = request.busy;
  request.stop();
  if (!wasAsking) settle('stopped', 'Stopped.');
}

async function replay() {
  request.stop();
  await player.wake(take.sampleRate);
  setActive(true);
  setState('speaking');
  status.textContent = 'Playing again…';
  play(take, {});
}

function fail(error) {
  settle('failed', take?.samples ? `It broke off. ${seconds(take.seconds)} arrived and can be kept.` : '');
  complain(inWords(error), fieldOf[error.param]);
}

function beginAnew() {
  player.stop();
  take = null;
  waveform.clear();
  words.clear();
  keep.hidden = true;
  firstFact.textContent = '–';
  secondsFact.textContent = '–';
  publish('playedSeconds', 0);
  withdraw('firstSoundMs');
  setActive(true);
  setState('waiting');
  status.textContent = 'Waiting for the first sound…';
}

function settle(state, message) {
  player.stop();
  waveform.rest();
  words.rest();
  setActive(false);
  setState(state);
  status.textContent = message;
}

function setActive(active) {
  if (!active && document.activeElement === stopButton) speakButton.focus();
  stopButton.disabled = !active;
}

function setState(state) {
  publish('speakState', state);
}

function offerDownload() {
  if (!take.samples) return;
  URL.revokeObjectURL(downloadUrl);
  downloadUrl = URL.createObjectURL(take.toWav());
  download.href = downloadUrl;
  download.download = `motet-${voice.value || picker.model.id}.wav`;
  keep.hidden = false;
}

function complain(message, field) {
  showError(errorLine, message);
  field?.setAttribute('aria-invalid', 'true');
  field?.focus();
}

function clearErrors() {
  hideError(errorLine);
  for (const field of Object.values(fieldOf)) field.removeAttribute('aria-invalid');
}
