// Motet's studio: puts the panels, the key field and the status dot together.

import { hasKey, inWords, useKey, whenKeyWanted } from './api.js';
import { offerCaptionModels, startCaptions } from './captions.js';
import { loadModels } from './catalogue.js';
import { offerConversation, startConverse } from './converse.js';
import { watchReadiness } from './readiness.js';
import { offerSeparationModels, startSeparate } from './separate.js';
import { offerSpeechModels, startSpeak } from './speak.js';
import { offerTranscriptionModels, startTranscribe } from './transcribe.js';
import { byId, copy, guardAgainstStrayDrops, hideError, showError } from './ui.js';

const keyForm = byId('key-form');
const keyInput = byId('key-input');
const keyNote = byId('key-note');
const catalogueError = byId('catalogue-error');

/** A service that is still warming up may already know its models; if not, that is no error yet. */
async function fillPickers(state) {
  try {
    const models = await loadModels();
    hideError(catalogueError);
    offerSpeechModels(models);
    offerCaptionModels(models);
    offerConversation(models);
    offerTranscriptionModels(models);
    offerSeparationModels(models);
  } catch (error) {
    if (error.status !== 401 && state !== 'waiting') showError(catalogueError, `The list of models did not load. ${inWords(error)}`);
  }
}

function askForKey(message) {
  if (hasKey()) keyNote.textContent = message;
  keyForm.hidden = false;
  keyInput.focus();
}

function takeKey(event) {
  event.preventDefault();
  useKey(keyInput.value);
  keyInput.value = '';
  keyForm.hidden = true;
  byId('speak-text').focus();
  fillPickers('ready');
}

function showBaseUrl() {
  const url = `${location.origin}/v1`;
  byId('base-url').textContent = url;
  byId('base-copy').addEventListener('click', (event) => copy(url, event.currentTarget));
}

guardAgainstStrayDrops();
whenKeyWanted(askForKey);
keyForm.addEventListener('submit', takeKey);
showBaseUrl();
startSpeak();
startCaptions();
startConverse();
startTranscribe();
startSeparate();
watchReadiness(fillPickers);
