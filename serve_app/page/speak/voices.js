// The person's own voices: a clip and a consent in, a voice that models with cloning speak with.

import { ask, askJson } from '../service/api.js';
import { byId, confirmed, disable, element, hideError, publish, seconds, showError } from '../ui/elements.js';
import { OneAtATime } from '../ui/one-at-a-time.js';
import { RecordingInput } from '../ui/recording-input.js';
import { refreshVoices, tryVoice } from './speak.js';
import { pauseStage } from './stage.js';

const NONE_CLONES = 'No model of this service speaks with voices of your own.';
const NO_VOICES = 'A voice of your own is made from a short clip, with the speaker’s consent.';

const addModel = byId('voices-models');
const list = byId('voices-list');
const note = byId('voices-note');
const listError = byId('voices-error');
const dialog = byId('voice-dialog');
const form = byId('voice-form');
const name = byId('voice-name');
const text = byId('voice-text');
const consent = byId('voice-consent');
const agreed = byId('voice-agreed');
const hear = byId('voice-hear');
const player = byId('voice-clip');
const errorLine = byId('voice-error');
const saveButton = byId('voice-save');

const input = new RecordingInput('voice', { onFile: takeClip, onError: (error) => showError(errorLine, error), onBegin: beginInput });

const hearing = new OneAtATime();

let clip = /** @type {File | null} */ (null);
let opening = 0; // which opening of the dialog this is
let clones = false;
let hearingModel = '';
let consentIsOurs = true;

export function startVoices() {
  input.allow(true);
  byId('voices-add').addEventListener('click', openDialog);
  byId('voice-close').addEventListener('click', () => dialog.close());
  dialog.addEventListener('close', () => {
    input.cancel();
    hearing.stop();
    player.pause();
  });
  name.addEventListener('input', proposeConsent);
  consent.addEventListener('input', () => {
    consentIsOurs = false;
  });
  text.addEventListener('input', () => hearing.stop()); // whoever types knows better
  hear.addEventListener('click', fillInText);
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    saveVoice();
  });
}

export function offerVoiceModels(models) {
  clones = models.some(({ motet }) => motet.clones);
  hearingModel = models.find(({ motet }) => motet.task === 'transcription')?.id ?? '';
  addModel.hidden = clones;
  showVoices();
}

function beginInput() {
  hideError(errorLine);
  player.pause(); // the microphone would hear it
  pauseStage();
}

async function showVoices() {
  try {
    const { data } = await askJson('/v1/audio/voices');
    const own = data.filter((voice) => voice.object === 'audio.voice');
    list.replaceChildren(...own.map(row));
    note.textContent = clones ? NO_VOICES : NONE_CLONES;
    note.hidden = clones && own.length > 0;
    publish('ownVoices', own.length);
  } catch (error) {
    if (error.status !== 401) showError(listError, error);
  }
}

function row(voice) {
  const [model] = voice.models;
  const speak = element('button', { type: 'button', className: 'button small', textContent: 'Try', disabled: !model });
  speak.setAttribute('aria-label', `Try ${voice.name}`);
  speak.addEventListener('click', () => tryVoice(model, voice.id));
  const remove = element('button', { type: 'button', className: 'button small', textContent: 'Delete' });
  remove.setAttribute('aria-label', `Delete ${voice.name}`);
  confirmed(remove, 'Delete?', () => deleteVoice(voice));
  const about = `${seconds(voice.seconds)}${model ? `, ${voice.models.join(', ')}` : ', no model can use it yet'}`;
  return element('li', {},
    element('div', { className: 'row-main' },
      element('span', { className: 'row-title', textContent: voice.name }), element('span', { className: 'hint', textContent: about })),
    speak, remove);
}

async function deleteVoice({ id }) {
  hideError(listError);
  try {
    await ask(`/v1/audio/voices/${encodeURIComponent(id)}`, { method: 'DELETE' });
    await Promise.all([showVoices(), refreshVoices()]);
    byId('voices-add').focus();
  } catch (error) {
    showError(listError, error);
  }
}

function openDialog() {
  opening += 1;
  form.reset();
  saveButton.disabled = false;
  clip = null;
  consentIsOurs = true;
  input.show('');
  player.hidden = true;
  hear.disabled = true;
  hideError(errorLine);
  proposeConsent();
  dialog.showModal();
}

/** @param {File} file */
function takeClip(file) {
  hearing.stop();
  clip = file;
  URL.revokeObjectURL(player.src);
  player.src = URL.createObjectURL(file);
  player.hidden = false;
  hear.disabled = !hearingModel;
}

function proposeConsent() {
  if (!consentIsOurs) return;
  consent.value = `${name.value.trim() || 'The speaker'} agreed that this clip is stored here and that speech is made with this voice.`;
}

async function fillInText() {
  hideError(errorLine);
  disable(hear, true, text);
  const outcome = await hearing.run(async (signal) => {
    const body = new FormData();
    body.append('file', clip, clip.name);
    body.append('model', hearingModel);
    const heard = await askJson('/v1/audio/transcriptions', { form: body, signal });
    signal.throwIfAborted();
    text.value = heard.text;
  }, (error) => showError(errorLine, error));
  if (outcome !== 'replaced') hear.disabled = !clip || !hearingModel;
}

async function saveVoice() {
  hideError(errorLine);
  hideError(listError);
  const missing = missingPart();
  if (missing) {
    showError(errorLine, missing.words);
    missing.field.focus();
    return;
  }
  saveButton.disabled = true;
  const own = opening;
  const isOpen = () => own === opening && dialog.open; // it may be closed, and opened for another voice
  try {
    await ask('/v1/audio/voices', { form: voiceBody() });
    if (isOpen()) dialog.close();
    await Promise.all([showVoices(), refreshVoices()]);
  } catch (error) {
    showError(isOpen() ? errorLine : listError, error);
  } finally {
    if (own === opening) saveButton.disabled = false;
  }
}

function voiceBody() {
  const body = new FormData();
  body.append('audio_sample', clip, clip.name);
  body.append('name', name.value.trim());
  body.append('consent', consent.value.trim());
  if (text.value.trim()) body.append('text', text.value.trim());
  return body;
}

function missingPart() {
  if (!clip) return { words: 'Choose or record a clip first.', field: byId('voice-record') };
  if (!name.value.trim()) return { words: 'Give the voice a name.', field: name };
  if (!agreed.checked) return { words: 'A voice is stored only with the speaker’s consent.', field: agreed };
  return null;
}
