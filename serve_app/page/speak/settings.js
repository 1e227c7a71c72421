// What the form of the Speak view says, and its draft, which survives a reload.

import { byId } from '../ui/elements.js';

/**
 * @typedef {object} SpeechSettings
 * @property {string} input
 * @property {string} model
 * @property {string} voice
 * @property {number} speed
 * @property {string} instructions
 * @property {number} seed
 */

const DRAFT = 'motet-draft';
export const FIRST_TEXT = 'A motet is a piece for several independent voices at once: many streams, one performance.';
const EXAMPLES = [
  FIRST_TEXT,
  'Good morning. It is seven thirty, nine degrees and clear; the 8:15 to Zürich leaves on time from platform 4.',
  'Dr. Reyes paid $1,249.50 on March 3rd for two microphones, a stand, and 12 metres of cable.',
  '“Is anybody there?” she asked. Nobody answered. Then, very quietly, the old radio began to hum.',
];

const text = byId('speak-text');
const fields = {
  input: text,
  model: byId('speak-model'),
  voice: byId('speak-voice'),
  speed: byId('speak-speed'),
  instructions: byId('speak-instructions'),
  seed: byId('speak-seed'),
};

/** The field of the form that a parameter of a request comes from. */
export function fieldOf(parameter) {
  return fields[parameter];
}

/** @returns {SpeechSettings} */
export function settings() {
  return {
    input: text.value,
    model: fields.model.value,
    voice: fields.voice.value,
    speed: Number(fields.speed.value),
    instructions: fields.instructions.value.trim(),
    seed: Number(fields.seed.value) || 0,
  };
}

/** Fill in the form, except for model and voice, which their pickers choose. @param {Partial<SpeechSettings>} values */
export function fillIn({ input, speed, instructions, seed }) {
  if (input !== undefined) text.value = input;
  if (speed !== undefined) fields.speed.value = String(speed);
  if (instructions !== undefined) fields.instructions.value = instructions;
  if (seed !== undefined) fields.seed.value = String(seed);
  byId('speak-more').open = Boolean(fields.instructions.value || Number(fields.seed.value));
  showSpeed();
  showCount();
}

/** Show what is typed, and keep it. @returns {Partial<SpeechSettings>} the draft of an earlier visit */
export function startSettings() {
  const draft = readDraft();
  fillIn({ input: FIRST_TEXT, ...draft });
  text.addEventListener('input', () => {
    text.removeAttribute('aria-invalid');
    showCount();
  });
  fields.speed.addEventListener('input', showSpeed);
  for (const field of Object.values(fields)) {
    field.addEventListener('input', keepDraft);
    field.addEventListener('change', keepDraft);
  }
  byId('speak-example').addEventListener('click', () => {
    fillIn({ input: EXAMPLES[(EXAMPLES.indexOf(text.value) + 1) % EXAMPLES.length] });
    keepDraft();
  });
  return draft;
}

function readDraft() {
  try {
    return JSON.parse(localStorage.getItem(DRAFT) ?? '{}');
  } catch {
    return {}; // storage is off, or somebody else's
  }
}

function keepDraft() {
  try {
    const voice = fields.voice.value || readDraft().voice; // none is chosen while those of the model are not known
    localStorage.setItem(DRAFT, JSON.stringify({ ...settings(), voice }));
  } catch {
    // Storage is off or full: the text lives as long as the page.
  }
}

function showSpeed() {
  const speed = Number(fields.speed.value);
  byId('speak-speed-value').textContent = `${speed}×`;
  fields.speed.setAttribute('aria-valuetext', `${speed} times`);
  fields.speed.style.setProperty('--part', String((speed - fields.speed.min) / (fields.speed.max - fields.speed.min)));
}

function showCount() {
  const count = text.value.length;
  byId('speak-count').textContent = count === 1 ? '1 character' : `${count.toLocaleString('en')} characters`;
}
