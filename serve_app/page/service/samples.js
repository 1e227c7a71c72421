// Recordings for a first try, which the service itself makes: a conversation of two, and speech in noise.

import { Take, toBytes, toFloats } from '../sound/take.js';
import { ask } from './api.js';
import { loadModels } from './catalogue.js';

const RATE = 24000;
const LOWER = 0.8;
const PAUSE_SECONDS = 0.45;
const NOISE = 0.035;

const CONVERSATION = [
  ['high', 'Good morning. Did the recording from yesterday arrive?'],
  ['low', 'Yes, all of it. One hour and twenty minutes, with five people at one table.'],
  ['high', 'Then let us have it written down, with a name beside every sentence.'],
  ['low', 'Fine. I will listen to the difficult places myself.'],
];
const NOISY = 'This sentence was spoken beside a loud machine. Separate it, and the machine is gone.';

/** A conversation. The second voice is the first one, lower. @param {AbortSignal} signal @returns {Promise<File>} */
export async function sampleConversation(signal) {
  const model = await speechModel(signal);
  const parts = await Promise.all(CONVERSATION.map(async ([pitch, text]) => {
    const sound = await spoken(model, text, pitch === 'low' ? 1 / LOWER : 1, signal);
    return pitch === 'low' ? slowed(sound, LOWER) : sound;
  }));
  return wav('sample-conversation.wav', parts.flatMap((part) => [part, new Float32Array(RATE * PAUSE_SECONDS)]));
}

/** Speech beside a machine: a hum, and noise that comes and goes. @param {AbortSignal} signal @returns {Promise<File>} */
export async function sampleInNoise(signal) {
  const sound = await spoken(await speechModel(signal), NOISY, 1, signal);
  let smooth = 0;
  for (let i = 0; i < sound.length; i += 1) {
    smooth += 0.4 * (Math.random() * 2 - 1 - smooth);
    const turning = 1 + 0.5 * Math.sin((2 * Math.PI * 3 * i) / RATE);
    sound[i] = sound[i] * 0.7 + NOISE * 3 * smooth * turning + NOISE * Math.sin((2 * Math.PI * 110 * i) / RATE);
  }
  return wav('sample-noisy.wav', [sound]);
}

async function speechModel(signal) {
  const found = (await loadModels(signal)).find(({ motet }) => motet.task === 'speech');
  if (!found) throw new Error('The sample needs a model that speaks, and this service has none. Choose a recording instead.');
  return found.id;
}

/** @returns {Promise<Float32Array>} mono at `RATE` */
async function spoken(model, input, speed, signal) {
  const json = { model, input, speed, response_format: 'pcm', sample_rate: RATE };
  const response = await ask('/v1/audio/speech', { json, signal });
  return toFloats(new Uint8Array(await response.arrayBuffer()));
}

/** The same samples, slower and lower. @param {Float32Array} sound @param {number} factor */
function slowed(sound, factor) {
  const longer = new Float32Array(Math.floor((sound.length - 1) / factor));
  for (let i = 0; i < longer.length; i += 1) {
    const at = i * factor;
    const whole = Math.floor(at);
    longer[i] = sound[whole] + (sound[whole + 1] - sound[whole]) * (at - whole);
  }
  return longer;
}

function wav(name, parts) {
  const take = new Take(RATE);
  for (const part of parts) take.append(toBytes(part));
  take.finish();
  return new File([take.toWav()], name, { type: 'audio/wav' });
}
