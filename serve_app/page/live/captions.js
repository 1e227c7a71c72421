// Live captions: what the microphone hears, as text, while it is spoken. Words that may still change are grey.

import { ModelPicker } from '../service/catalogue.js';
import { LivePanel, write } from './live.js';
import { MICROPHONE_RATE } from '../sound/microphone.js';
import { copy } from '../ui/clipboard.js';
import { byId, fillSelect, languageOptions } from '../ui/elements.js';

const EVENT = 'conversation.item.input_audio_transcription.';
const LAST_WORDS_LIMIT_MS = 8000;

const text = byId('captions-text');
const language = byId('captions-language');
const copyButton = byId('captions-copy');

const panel = new LivePanel('captions');
const picker = new ModelPicker('captions', 'transcription', offerLanguages);

let turns = new Map();
let turnsDone = () => {};

export function startCaptions() {
  panel.whenStarted(caption);
  copyButton.addEventListener('click', () => copy(committedText(), copyButton));
}

export function offerCaptionModels(models) {
  picker.fill(models);
}

function offerLanguages(model) {
  panel.allow(model);
  fillSelect(language, languageOptions(model?.motet.languages ?? []));
}

async function caption(signal) {
  text.replaceChildren();
  copyButton.hidden = true;
  turns = new Map();
  await panel.listen({
    query: 'intent=transcription',
    settings: settings(),
    onEvent: show,
    onReady: () => panel.show('listening', 'Listening. Speak now.'),
    finish: lastWords,
    signal,
  });
}

function settings() {
  return {
    type: 'transcription',
    audio: {
      input: {
        format: { type: 'audio/pcm', rate: MICROPHONE_RATE },
        transcription: { model: picker.model.id, ...(language.value && { language: language.value }) },
        turn_detection: { type: 'server_vad' },
      },
    },
    include: ['item.input_audio_transcription.tentative'],
  };
}

/** Commits a turn that is still spoken, and waits for the text of all turns. */
async function lastWords(session) {
  panel.show('finishing', 'Hearing the last words…');
  if ([...turns.values()].some((turn) => turn.open)) session.send({ type: 'input_audio_buffer.commit' });
  const limit = new Promise((resolve) => {
    setTimeout(resolve, LAST_WORDS_LIMIT_MS);
  });
  const done = new Promise((resolve) => {
    turnsDone = resolve;
  });
  if (waiting()) await Promise.race([done, limit]);
}

function waiting() {
  return [...turns.values()].some((turn) => !turn.complete);
}

function show(event) {
  switch (event.type) {
    case 'input_audio_buffer.speech_started':
      turnOf(event.item_id).open = true;
      break;
    case 'input_audio_buffer.committed':
      turnOf(event.item_id).open = false;
      break;
    case `${EVENT}delta`:
      change(event, (turn) => turn.committed.append(event.delta));
      break;
    case `${EVENT}tentative`:
      change(event, (turn) => turn.tentative.replaceChildren(event.tentative));
      break;
    case `${EVENT}completed`:
      change(event, (turn) => turn.committed.replaceChildren(event.transcript));
      complete(event.item_id);
      break;
    case `${EVENT}failed`:
      panel.complain(event.error.message);
      complete(event.item_id);
      break;
    case 'error':
      panel.complain(event.error.message);
      break;
    default:
  }
}

function change({ item_id: id }, how) {
  write(text, () => how(turnOf(id)));
  copyButton.hidden = committedText() === '';
}

function complete(id) {
  const turn = turnOf(id);
  turn.tentative.replaceChildren();
  turn.complete = true;
  if (!turn.line.textContent.trim()) turn.line.remove();
  if (!waiting()) turnsDone();
}

function turnOf(id) {
  if (!turns.has(id)) {
    const line = document.createElement('p');
    const [committed, tentative] = [document.createElement('span'), document.createElement('span')];
    committed.className = 'committed';
    tentative.className = 'tentative';
    line.append(committed, tentative);
    text.append(line);
    turns.set(id, { line, committed, tentative, open: false, complete: false });
  }
  return turns.get(id);
}

function committedText() {
  return [...turns.values()].map((turn) => turn.committed.textContent.trim()).filter(Boolean).join('\n');
}
