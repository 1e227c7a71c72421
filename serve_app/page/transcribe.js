// The transcription panel: a recording in, text out while the recording is still being transcribed.

import { ask, ServiceError } from './api.js';
import { ModelPicker } from './catalogue.js';
import { canRecord, startRecording } from './recorder.js';
import { eventsOf } from './sse.js';
import { OneAtATime, acceptFiles, byId, copy, hideError, publish, seconds, showError, swapButtons } from './ui.js';

const fileInput = byId('transcribe-file');
const fileName = byId('transcribe-name');
const transcript = byId('transcribe-text');
const status = byId('transcribe-status');
const errorLine = byId('transcribe-error');
const againButton = byId('transcribe-again');
const stopButton = byId('transcribe-stop');
const copyButton = byId('transcribe-copy');
const recordButton = byId('record-button');
const recordLabel = byId('record-label');

const request = new OneAtATime();
const picker = new ModelPicker('transcribe', 'transcription', allow);

let file = null;
let recording = null;

export async function startTranscribe() {
  setState('idle');
  acceptFiles(byId('transcribe-drop'), fileInput, transcribe);
  againButton.addEventListener('click', () => transcribe(file));
  stopButton.addEventListener('click', () => request.stop());
  copyButton.addEventListener('click', () => copy(transcript.textContent, copyButton));
  recordButton.addEventListener('click', toggleRecording);
  recordButton.hidden = !(await canRecord());
}

export function offerTranscriptionModels(models) {
  picker.fill(models);
}

function allow(model) {
  fileInput.disabled = !model;
  recordButton.disabled = !model;
  againButton.disabled = !model;
}

async function transcribe(chosen) {
  file = chosen;
  begin();
  const startedAt = performance.now();
  const outcome = await request.run(transcribeOnce, fail);
  if (outcome === 'replaced') return;
  swapButtons(stopButton, againButton);
  copyButton.hidden = !transcript.textContent;
  if (outcome === 'failed') return;
  setState(outcome);
  const took = seconds((performance.now() - startedAt) / 1000);
  status.textContent = outcome === 'done' ? doneWords(took) : 'Stopped.';
}

async function transcribeOnce(signal) {
  const form = new FormData();
  form.append('file', file, file.name);
  form.append('model', picker.model.id);
  form.append('response_format', 'json');
  form.append('stream', 'true');
  const response = await ask('/v1/audio/transcriptions', { form, signal });
  if (!isEventStream(response)) {
    show((await response.json()).text);
    return;
  }
  await follow(response);
}

function isEventStream(response) {
  return response.headers.get('content-type')?.startsWith('text/event-stream');
}

async function follow(response) {
  let finished = false;
  for await (const event of eventsOf(response)) {
    if (event.error) throw new ServiceError(event.error.message ?? String(event.error), event.error);
    if (event.type === 'transcript.text.delta') write(() => transcript.append(event.delta));
    if (event.type === 'transcript.text.done') {
      show(event.text);
      finished = true;
    }
  }
  if (!finished) throw new ServiceError('The connection broke before the transcript was complete.');
}

function show(text) {
  write(() => {
    transcript.textContent = text;
  });
}

/** Change the transcript, and keep its end in view unless the reader has scrolled up. */
function write(change) {
  const atEnd = transcript.scrollHeight - transcript.scrollTop - transcript.clientHeight < 24;
  change();
  if (atEnd) transcript.scrollTop = transcript.scrollHeight;
}

function begin() {
  hideError(errorLine);
  transcript.textContent = '';
  copyButton.hidden = true;
  fileName.textContent = file.name;
  swapButtons(againButton, stopButton);
  setState('transcribing');
  status.textContent = 'Transcribing…';
}

function doneWords(took) {
  return transcript.textContent ? `Done in ${took}.` : `Done in ${took}. No words were found.`;
}

function fail(error) {
  setState('failed');
  status.textContent = transcript.textContent ? 'Only part of it was transcribed.' : '';
  showError(errorLine, error);
}

async function toggleRecording() {
  if (recording) {
    recording.stop();
    return;
  }
  hideError(errorLine);
  recordButton.disabled = true;
  try {
    recording = await startRecording();
  } catch (error) {
    refuseRecording(error);
    return;
  } finally {
    recordButton.disabled = false;
  }
  showRecording(true);
  const recorded = await recording.done;
  recording = null;
  showRecording(false);
  transcribe(recorded);
}

function showRecording(active) {
  recordButton.setAttribute('aria-pressed', String(active));
  recordLabel.textContent = active ? 'Finish recording' : 'Record';
  status.textContent = active ? 'Recording…' : '';
}

function refuseRecording(error) {
  const denied = error.name === 'NotAllowedError';
  recordButton.hidden = denied;
  showError(errorLine, denied ? 'This page may not use the microphone. Choose a file instead.'
    : 'No microphone was found. Choose a file instead.');
}

function setState(state) {
  publish('transcribeState', state);
}
