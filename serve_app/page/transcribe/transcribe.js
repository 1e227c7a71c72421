// The Transcribe view: a recording in, text out while the recording is still being heard.

import { ServiceError, ask } from '../service/api.js';
import { ModelPicker } from '../service/catalogue.js';
import { sampleConversation } from '../service/samples.js';
import { eventsOf, isEventStream } from '../service/sse.js';
import { cuesOf, srt, vtt } from '../text/subtitles.js';
import { baseName, copy, save } from '../ui/clipboard.js';
import { byId, fillSelect, hideError, languageOptions, option, publish, reveal, seconds, showError, swapButtons } from '../ui/elements.js';
import { OneAtATime } from '../ui/one-at-a-time.js';
import { RecordingInput } from '../ui/recording-input.js';
import { MediaPlayable, Transport } from '../ui/transport.js';
import { Transcript } from './transcript.js';

const UNPLAYABLE = 'This browser cannot play the recording. Its text is made all the same.';
const NOTHING = 'There is nothing to save until a recording has been transcribed.';
const PART = 'Only part of it was transcribed.';

const language = byId('transcribe-language');
const speakers = byId('transcribe-speakers');
const status = byId('transcribe-status');
const errorLine = byId('transcribe-error');
const againButton = byId('transcribe-again');
const stopButton = byId('transcribe-stop');
const copyButton = byId('transcribe-copy');
const format = byId('transcribe-format');
const downloadButton = byId('transcribe-download');
const downloadNote = byId('transcribe-download-note');

const request = new OneAtATime();
const picker = new ModelPicker('transcribe', 'transcription', allow);
const transport = new Transport(byId('transcribe-transport'), (position) => transcript.show(position || -1));
const transcript = new Transcript(byId('transcribe-text'), (start) => {
  transport.seek(start);
  publish('soughtSeconds', start);
  transport.play();
});
const input = new RecordingInput('transcribe', { onFile: take, onError: showFailure, onBegin: beginInput, sample: sampleConversation });

let file = /** @type {File | null} */ (null);
let url = '';

export function startTranscribe() {
  setState('idle');
  offerFiles();
  againButton.addEventListener('click', transcribe);
  stopButton.addEventListener('click', () => request.stop());
  copyButton.addEventListener('click', () => copy(transcript.text, copyButton));
  downloadButton.addEventListener('click', () => save(fileOf(format.value), `${baseName(file.name)}.${format.value}`));
}

export function offerTranscriptionModels(models) {
  picker.fill(models);
}

/** Choose a model, now or when the service has it. */
export function preferTranscriptionModel(id) {
  picker.prefer(id);
}

function allow(model) {
  input.allow(Boolean(model));
  againButton.disabled = !model;
  fillSelect(language, languageOptions(model?.motet.languages ?? []));
}

function showFailure(error) {
  showError(errorLine, error);
}

function beginInput() {
  hideError(errorLine);
  transport.pause(); // the microphone would hear it
}

/** @param {File} chosen */
function take(chosen) {
  file = chosen;
  URL.revokeObjectURL(url);
  url = URL.createObjectURL(file);
  transport.use(new MediaPlayable(url, { onError: () => unplayable(chosen) }));
  transcribe();
}

/** @param {File} which */
function unplayable(which) {
  if (which !== file) return;
  transport.use(null);
  if (errorLine.hidden) showError(errorLine, UNPLAYABLE);
}

async function transcribe() {
  begin();
  const startedAt = performance.now();
  const outcome = await request.run(transcribeOnce, showFailure);
  if (outcome === 'replaced') return;
  swapButtons(stopButton, againButton);
  offerFiles(outcome === 'done');
  setState(outcome);
  status.textContent = endWords(outcome, seconds((performance.now() - startedAt) / 1000));
}

async function transcribeOnce(signal) {
  const response = await ask('/v1/audio/transcriptions', { form: formOf(picker.model), signal });
  if (!isEventStream(response)) throw new ServiceError('The service answered with something else than events.');
  const segments = [];
  let whole = null;
  for await (const event of eventsOf(response)) {
    if (event.type === 'transcript.text.delta') transcript.add(event.delta, event.words);
    if (event.type === 'transcript.text.segment') segments.push(event);
    if (event.type === 'transcript.text.done') whole = event.text;
  }
  if (whole === null) throw new ServiceError('The connection broke before the transcript was complete.');
  transcript.finish(whole, segments);
}

function formOf({ id, motet }) {
  const form = new FormData();
  form.append('model', id);
  form.append('stream', 'true');
  if (language.value) form.append('language', language.value);
  const apart = speakers.value !== '';
  if (motet.word_timestamps) {
    form.append('response_format', 'verbose_json');
    form.append('timestamp_granularities[]', 'word');
    if (apart) form.append('diarize', 'true');
  } else {
    form.append('response_format', apart ? 'diarized_json' : 'json');
  }
  if (apart && speakers.value !== 'auto') form.append('speakers', speakers.value);
  form.append('file', file, file.name);
  return form;
}

function begin() {
  hideError(errorLine);
  transcript.clear();
  offerFiles();
  swapButtons(againButton, stopButton);
  setState('transcribing');
  status.textContent = 'Transcribing…';
  reveal(byId('transcribe-text'));
}

function endWords(outcome, took) {
  if (outcome === 'done') return transcript.text ? `Done in ${took}.` : `Done in ${took}. No words were found.`;
  if (outcome === 'stopped') return 'Stopped.';
  return transcript.text ? PART : '';
}

/** @param {boolean} whole whether the transcript is complete */
function offerFiles(whole = false) {
  const timed = transcript.words.length > 0;
  const choices = [['txt', 'Text'], ...(timed ? [['srt', 'Subtitles (SRT)'], ['vtt', 'Subtitles (WebVTT)']] : []), ['json', 'JSON']];
  fillSelect(format, choices.map(([value, label]) => option(value, label)));
  downloadButton.disabled = !transcript.text;
  copyButton.disabled = !transcript.text;
  downloadNote.textContent = !transcript.text ? NOTHING : whole ? '' : PART;
}

/** @param {string} wanted @returns {Blob} */
function fileOf(wanted) {
  const { text, words } = transcript;
  const cues = () => cuesOf(words.map(({ word, ...times }) => ({ text: word, ...times })));
  switch (wanted) {
    case 'srt': return new Blob([srt(cues())], { type: 'application/x-subrip' });
    case 'vtt': return new Blob([vtt(cues())], { type: 'text/vtt' });
    case 'json': return new Blob([JSON.stringify({ text, words: words.map(({ attached, ...word }) => word) }, null, 2)], { type: 'application/json' });
    default: return new Blob([`${text}\n`], { type: 'text/plain' });
  }
}

function setState(state) {
  publish('transcribeState', state);
}
