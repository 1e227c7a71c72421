// Which models this service has, and the pickers that offer them.

import { askJson } from './api.js';
import { byId, fillSelect, option } from '../ui/elements.js';

const NAMES_SHOWN = 2;

/** Real models by task that can be used: aliases are folded into the model they stand for. */
export async function loadModels(signal) {
  const { data } = await askJson('/v1/models', { signal });
  return data.filter(({ motet }) => motet && !motet.alias_of && (motet.state ?? 'ready') === 'ready');
}

/** The voices of a speech model, then the person's own if it speaks with them. @param {string} model */
export async function loadVoices(model, signal) {
  const { data } = await askJson(`/v1/audio/voices?model=${encodeURIComponent(model)}`, { signal });
  return data;
}

/** How a voice is listed. */
export function voiceLabel({ id, name, language }) {
  if (name) return name;
  return language ? `${id} (${language})` : id;
}

/** A model picker for one task. `onChoice` is called with the model, or null if the service has none. */
export class ModelPicker {
  #select;
  #note;
  #task;
  #models = [];
  #preferred = ''; // to be chosen when the service has it
  #onChoice;

  constructor(name, task, onChoice) {
    this.#select = byId(`${name}-model`);
    this.#note = byId(`${name}-model-note`);
    this.#task = task;
    this.#onChoice = onChoice;
    this.#select.addEventListener('change', () => {
      this.#preferred = '';
      this.#chosen();
    });
  }

  /** Choose a model by its name; false if the service does not have it. */
  choose(id) {
    if (!this.#models.some((model) => model.id === id)) return false;
    this.#select.value = id;
    this.#chosen();
    return true;
  }

  /** Choose a model now, or as soon as the service has it. */
  prefer(id) {
    this.#preferred = this.choose(id) ? '' : id;
  }

  get model() {
    return this.#models.find((model) => model.id === this.#select.value) ?? null;
  }

  fill(models) {
    this.#models = models.filter((model) => model.motet.task === this.#task);
    fillSelect(this.#select, this.#models.map((model) => option(model.id)));
    if (this.choose(this.#preferred)) this.#preferred = '';
    else this.#chosen();
  }

  #chosen() {
    this.#note.textContent = this.model ? describe(this.model) : `This service has no model for ${this.#task}.`;
    this.#onChoice(this.model);
  }
}

function describe({ motet }) {
  const parts = [];
  if (motet.placements?.length) parts.push(`Runs on ${motet.placements.join(', ')}`);
  if (motet.aliases?.length) parts.push(`also called ${inShort(motet.aliases)}`);
  return parts.join('; ');
}

function inShort(names) {
  const more = names.length - NAMES_SHOWN;
  return more > 1 ? `${names.slice(0, NAMES_SHOWN).join(', ')} and ${more} more` : names.join(', ');
}
