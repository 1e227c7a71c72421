// A model of the catalogue: its facts, what happens with it, and what can be done.

import { element } from '../ui/elements.js';
import { actionButton, useLink } from './actions.js';
import { PHASES, languagesInWords, progressInWords, sizeInWords } from './words.js';

/** @typedef {import('./facts.js').ModelFacts} ModelFacts */

/** The buttons of each phase; the first one is what most people want. */
const ACTIONS = {
  available: ['add'],
  fetching: ['cancel'],
  trying: ['cancel'],
  stopped: ['resume', 'discard'],
  installed: ['load', 'remove'],
  loading: [],
  served: [],
  'load-failed': ['load'],
  unloading: [],
};
const WORKING = ['fetching', 'trying', 'loading', 'unloading'];
const DOTS = { served: 'ready', stopped: 'away', 'load-failed': 'away' };

/** A list item that is changed in place, so that the focus and the screen reader stay where they are. */
export class ModelCard {
  item = element('li', { className: 'model' });
  #heading = element('h5', { tabIndex: -1 });
  #body = element('div', { className: 'model-body' });
  #work = element('div', { className: 'model-work' });
  #foot = element('div', { className: 'model-foot' });
  #onAction;
  #drawn = '';

  /** @param {string} id @param {(action: string, id: string) => void} onAction */
  constructor(id, onAction) {
    this.#onAction = onAction;
    this.item.dataset.model = id;
    this.#heading.textContent = id;
    this.item.append(this.#heading, this.#body, this.#work, this.#foot);
  }

  /**
   * Show the model as it is now.
   * @param {ModelFacts} model
   * @param {{rate: number, failure: string, busy: boolean}} now `failure` is why the last action was refused; `busy` while one is under way
   */
  show(model, { rate, failure, busy }) {
    const drawn = JSON.stringify([{ ...model.entry, addition: null }, model.phase, model.cause, failure, busy]);
    if (drawn !== this.#drawn) {
      this.#drawn = drawn;
      this.item.dataset.phase = model.phase;
      this.#body.replaceChildren(...bodyOf(model.entry));
      this.#work.replaceChildren(...workOf(model));
      this.#showFoot(model, failure, busy);
    }
    showProgress(this.#work, model, rate);
  }

  #showFoot({ id, task, phase, cause }, failure, busy) {
    const hadFocus = this.#foot.contains(document.activeElement);
    const buttons = ACTIONS[phase].map((action) => actionButton(action, id, busy, this.#onAction));
    if (phase === 'served') buttons.push(useLink(id, task));
    const message = failure || cause;
    this.#foot.replaceChildren(
      ...(message ? [element('p', { className: 'error', textContent: message })] : []),
      ...(buttons.length ? [element('div', { className: 'actions' }, ...buttons)] : []),
    );
    if (hadFocus) (this.#foot.querySelector('button:not(:disabled), a') ?? this.#heading).focus();
  }
}

function bodyOf(entry) {
  const tags = [
    ...(entry.clones ? [tag('Clones voices', 'good')] : []),
    entry.verified ? tag('Verified', 'good') : tag('Not verified', 'plain'),
  ];
  const parts = [element('p', { className: 'tags' }, ...tags)];
  if (entry.about) parts.push(element('p', { textContent: entry.about }));
  return [...parts, factsOf(entry)];
}

function tag(text, kind) {
  const made = element('span', { className: 'tag', textContent: text });
  made.dataset.kind = kind;
  return made;
}

function factsOf({ languages, size_bytes: size, licence, parameters, hardware, trial }) {
  const known = [
    ['Languages', languages.length ? languagesInWords(languages) : ''],
    ['Size', [sizeInWords(size), parameters && `${parameters} parameters`].filter(Boolean).join(', ')],
    ['Licence', licence || 'not stated'],
    ['Runs on', hardware.join(', ')],
    ['Memory', trial ? sizeInWords(trial.memory_bytes) : ''],
    ['Speed', trial ? `${trial.times_real_time.toFixed(1)}× real time, tried ${trial.date}` : ''],
  ];
  return element('dl', { className: 'model-facts' }, ...known.filter(([, value]) => value).map(([name, value]) => (
    element('div', {}, element('dt', { textContent: name }), element('dd', { textContent: value })))));
}

function workOf({ id, phase }) {
  const line = element('p', { className: 'state' }, element('span', { className: 'dot' }), PHASES[phase]);
  line.dataset.state = DOTS[phase] ?? (WORKING.includes(phase) ? 'waiting' : 'unknown');
  if (!WORKING.includes(phase)) return [line];
  const bar = element('progress', { max: 1 });
  bar.setAttribute('aria-label', `${id}: ${PHASES[phase]}`);
  return [line, bar, element('p', { className: 'hint' })];
}

function showProgress(work, { phase, entry }, rate) {
  if (phase !== 'fetching') return;
  const { received_bytes: received, total_bytes: total } = entry.addition;
  const [bar, words] = [work.querySelector('progress'), work.querySelector('.hint')];
  if (total) bar.value = Math.min(1, received / total);
  else bar.removeAttribute('value');
  words.textContent = progressInWords(entry.addition, rate);
  bar.setAttribute('aria-valuetext', words.textContent);
}
