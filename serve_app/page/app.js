// Motet's Studio: puts the views, the key field and the status dot together.

import { showCluster, startCluster } from './cluster/cluster.js';
import { offerCaptionModels, startCaptions } from './live/captions.js';
import { offerConversation, startConverse } from './live/converse.js';
import { showModels, startModels } from './models/models.js';
import { offerSeparationModels, preferSeparationModel, startSeparate } from './separate/separate.js';
import { hasKey, inWords, useKey, whenKeyWanted } from './service/api.js';
import { loadModels } from './service/catalogue.js';
import { watchReadiness } from './service/readiness.js';
import { offerSpeechModels, preferSpeechModel, startSpeak } from './speak/speak.js';
import { offerVoiceModels, startVoices } from './speak/voices.js';
import { offerTranscriptionModels, preferTranscriptionModel, startTranscribe } from './transcribe/transcribe.js';
import { copy } from './ui/clipboard.js';
import { byId, hideError, showError } from './ui/elements.js';
import { guardAgainstStrayDrops } from './ui/recording-input.js';
import { startViews } from './ui/views.js';

const keyForm = byId('key-form');
const keyInput = byId('key-input');
const keyNote = byId('key-note');
const catalogueError = byId('catalogue-error');

const OFFERS = [
  offerSpeechModels, offerVoiceModels, offerTranscriptionModels, offerSeparationModels, offerCaptionModels, offerConversation,
];

const PREFERENCES = { speak: preferSpeechModel, transcribe: preferTranscriptionModel, separate: preferSeparationModel };

/** A service that is still warming up may already know its models; if not, that is no error yet. */
async function fillPickers(state) {
  try {
    const models = await loadModels();
    hideError(catalogueError);
    for (const offer of OFFERS) offer(models);
  } catch (error) {
    if (error.status !== 401 && state !== 'waiting') showError(catalogueError, `The list of models did not load. ${inWords(error)}`);
  }
}

function askForKey(message) {
  if (hasKey()) keyNote.textContent = message;
  if (keyForm.hidden) {
    keyForm.hidden = false;
    keyInput.focus();
  }
}

function takeKey(event) {
  event.preventDefault();
  useKey(keyInput.value);
  keyInput.value = '';
  keyForm.hidden = true;
  byId('main').focus();
  fillPickers('ready');
}

/** `model` in the address, such as `#speak?model=sopro`, chooses a model of the view. */
function showView({ name, parameters }) {
  showCluster(name === 'cluster');
  showModels(name === 'models', parameters);
  if (parameters.has('model')) PREFERENCES[name]?.(parameters.get('model'));
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
startVoices();
startTranscribe();
startSeparate();
startCaptions();
startConverse();
startCluster();
startModels(() => fillPickers('ready'));
startViews(showView);
watchReadiness(fillPickers);
