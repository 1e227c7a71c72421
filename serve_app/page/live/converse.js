// A conversation: you talk, the service answers aloud, and stops when you speak again.

import { LivePanel, write } from './live.js';
import { MICROPHONE_RATE } from '../sound/microphone.js';
import { Take } from '../sound/take.js';
import { Player } from '../sound/player.js';
import { bytesOf } from '../service/sse.js';
import { byId, fillSelect, option, publish } from '../ui/elements.js';

const VOICE_RATE = 24000;
const HEARD = 'conversation.item.input_audio_transcription.';
const WITHOUT_CHAT = [
  ['echo', 'Echo: repeats what you say'],
  ['translate', 'Translate: says it in English'],
];

const list = byId('converse-text');
const answers = byId('converse-answers');
const note = byId('converse-note');

const panel = new LivePanel('converse');
const player = new Player();

let session = null;
let turns = new Map();
let spoken = null; // the answer that is played: { id, take }
let interrupted = new Set();
let interruptions = 0;

export function startConverse() {
  panel.whenStarted(converse);
}

/** Offers what may answer: the chat model first, if one is configured. */
export function offerConversation(models) {
  const chat = models.find(({ motet }) => motet.task === 'conversation')?.motet;
  const choices = WITHOUT_CHAT.map(([value, label]) => option(value, label));
  if (chat?.answers === 'chat') choices.unshift(option('gpt-realtime', `Chat model: ${chat.chat_model}`));
  fillSelect(answers, chat ? choices : []);
  note.textContent = noteFor(chat);
  panel.allow(chat);
}

function noteFor(chat) {
  if (!chat) return 'A conversation needs a model that transcribes and one that speaks.';
  return chat.answers === 'chat' ? '' : 'No chat model is configured: see realtime.chat in the configuration.';
}

async function converse(signal) {
  list.replaceChildren();
  turns = new Map();
  interrupted = new Set();
  interruptions = 0;
  await player.wake(VOICE_RATE);
  try {
    await panel.listen({
      query: `model=${encodeURIComponent(answers.value)}`,
      settings: settings(),
      onEvent: show,
      onReady: (opened) => {
        session = opened;
        listening();
      },
      signal,
    });
  } finally {
    player.stop();
    spoken = null;
    session = null;
  }
}

function settings() {
  return {
    type: 'realtime',
    output_modalities: ['audio'],
    audio: {
      input: {
        format: { type: 'audio/pcm', rate: MICROPHONE_RATE },
        turn_detection: { type: 'server_vad', create_response: true, interrupt_response: true },
      },
      output: { format: { type: 'audio/pcm', rate: VOICE_RATE } },
    },
  };
}

function show(event) {
  switch (event.type) {
    case 'input_audio_buffer.speech_started':
      interrupt();
      textOf(event.item_id, 'You');
      panel.show('hearing', 'Hearing you…');
      break;
    case 'input_audio_buffer.committed':
      panel.show('thinking', 'Waiting for the answer…');
      break;
    case `${HEARD}delta`:
      write(list, () => textOf(event.item_id, 'You').append(event.delta));
      break;
    case `${HEARD}completed`:
      write(list, () => textOf(event.item_id, 'You').replaceChildren(event.transcript || '…'));
      break;
    case `${HEARD}failed`:
    case 'error':
      panel.complain(event.error.message);
      break;
    case 'response.output_audio_transcript.delta':
      if (!interrupted.has(event.item_id)) write(list, () => textOf(event.item_id, 'Motet').append(event.delta));
      break;
    case 'response.output_audio.delta':
      hear(event);
      break;
    case 'response.output_audio.done':
      finish(event.item_id);
      break;
    case 'response.done':
      end(event.response);
      break;
    default:
  }
}

function hear({ item_id: id, delta }) {
  if (interrupted.has(id)) return;
  if (spoken?.id !== id) begin(id);
  spoken.take.append(bytesOf(delta));
  player.more();
}

function begin(id) {
  spoken = { id, take: new Take(VOICE_RATE) };
  player.play(spoken.take, { end: listening });
  panel.show('speaking', 'Speaking. Talk to interrupt.');
  publish('converseAnswers', Number(document.body.dataset.converseAnswers ?? 0) + 1);
}

function finish(id) {
  if (spoken?.id !== id) return;
  spoken.take.finish();
  player.more();
}

function end({ status, status_details: details }) {
  if (status === 'failed') panel.complain(details?.error?.message ?? 'The answer failed.');
  if (!player.playing && status !== 'cancelled') listening();
}

/** Silences the answer at once, and tells the service how much of it was heard. */
function interrupt() {
  if (!spoken || !player.playing) return;
  player.stop();
  const { id } = spoken;
  interrupted.add(id);
  interruptions += 1;
  publish('converseInterruptions', interruptions);
  session.send({
    type: 'conversation.item.truncate',
    item_id: id,
    content_index: 0,
    audio_end_ms: Math.floor(player.heardSeconds * 1000),
  });
  const words = textOf(id, 'Motet');
  words.textContent = `${words.textContent.trim()} —`;
}

function listening() {
  if (session) panel.show('listening', 'Listening. Speak now.');
}

/** The words of one side's turn, in the order in which the turns began. */
function textOf(id, who) {
  if (!turns.has(id)) {
    const line = document.createElement('p');
    const [name, words] = [document.createElement('strong'), document.createElement('span')];
    line.className = who === 'You' ? 'turn you' : 'turn';
    name.textContent = who;
    line.append(name, words);
    list.append(line);
    turns.set(id, words);
  }
  return turns.get(id);
}
