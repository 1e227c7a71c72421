// The models that the service has now: where each runs, and whether it takes work.

import { element } from '../ui/elements.js';
import { actionButton, useLink } from './actions.js';
import { PHASES, PLACEMENT_STATES, TASKS } from './words.js';

/** @typedef {import('./facts.js').ModelFacts} ModelFacts */

/** The list, which is made anew only when something in it has changed. */
export class ServedList {
  #list;
  #onAction;
  #drawn = '';

  /** @param {HTMLElement} list @param {(action: string, id: string) => void} onAction */
  constructor(list, onAction) {
    this.#list = list;
    this.#onAction = onAction;
  }

  /** @param {ModelFacts[]} models @param {(id: string) => boolean} isBusy */
  show(models, isBusy) {
    const listed = models.filter((model) => model.listed);
    const drawn = JSON.stringify(listed.map(({ entry, ...facts }) => [facts, isBusy(facts.id)]));
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const focused = this.#list.contains(document.activeElement) ? document.activeElement.closest('li').dataset.served : '';
    this.#list.replaceChildren(...listed.map((model) => this.#row(model, isBusy(model.id))));
    if (focused) this.#focus(focused);
  }

  #row(model, busy) {
    const { id, task, phase, clones, placements, unloadable, cause } = model;
    const row = element('li', { className: 'placement', tabIndex: -1 },
      element('h4', {}, id, ...(clones ? [tag('Clones voices')] : [])),
      element('p', { className: 'hint', textContent: `${TASKS[task]}${unloadable ? '' : ', from the configuration'}` }),
      ...(phase === 'served' ? placements.map(placementLine) : [stateLine('', phase === 'load-failed' ? 'away' : 'waiting', PHASES[phase])]));
    row.dataset.served = id;
    if (cause) row.append(element('p', { className: 'hint', textContent: cause }));
    const buttons = [
      ...(phase === 'served' ? [useLink(id, task)] : []),
      ...(unloadable && phase !== 'unloading' ? [actionButton('unload', id, busy, this.#onAction)] : []),
    ];
    if (buttons.length) row.append(element('div', { className: 'actions' }, ...buttons));
    return row;
  }

  /** The same model, or the list itself if the model is gone. */
  #focus(id) {
    const row = [...this.#list.children].find((each) => each.dataset.served === id);
    (row?.querySelector('button:not(:disabled), a') ?? row ?? this.#list).focus();
  }
}

function placementLine({ hardware, state, cause }) {
  return stateLine(hardware, state || 'unknown', [PLACEMENT_STATES[state] ?? 'Its state is not known', cause].filter(Boolean).join('. '));
}

function stateLine(hardware, state, words) {
  const line = element('p', { className: 'state' }, element('span', { className: 'dot' }));
  if (hardware) line.append(element('span', { className: 'tag', textContent: hardware }));
  line.append(words);
  line.dataset.state = state;
  return line;
}

function tag(text) {
  const made = element('span', { className: 'tag', textContent: text });
  made.dataset.kind = 'good';
  return made;
}
