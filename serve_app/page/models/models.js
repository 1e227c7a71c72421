// The Models view: what the service has, what could be added, and the way from one to the other.

import { inWords } from '../service/api.js';
import { byId, element, hideError, publish, showError } from '../ui/elements.js';
import { askForAdminKey, needsAdminKey, startAdminKey } from './admin-key.js';
import { addModel, loadModel, removeModel, unloadModel } from './changes.js';
import { ModelsThatLoad, ModelsToLoad } from './errands.js';
import { readModels } from './facts.js';
import { ModelCard } from './model-card.js';
import { Rates } from './rates.js';
import { ServedList } from './served-list.js';
import { TASKS } from './words.js';

/** @typedef {import('./facts.js').ModelFacts} ModelFacts */

const BUSY_PAUSE_MS = 1000;
const PAUSE_MS = 5000;
const MOVING = ['fetching', 'trying', 'loading', 'unloading'];
const DOINGS = { add, resume: add, load, unload, cancel: discard, discard, remove: discard };

const REMOVED = {
  cancel: (id) => `${id} is not added. What was fetched stays for the next time.`,
  discard: (id) => `What was fetched of ${id} is removed.`,
  remove: (id) => `${id} is removed.`,
};

const news = byId('models-news');
const errorLine = byId('models-error');
const filter = byId('models-filter');
const clonesBox = byId('models-clones');
const count = byId('models-count');
const catalogue = byId('models-catalogue');

const served = new ServedList(byId('models-served'), change);
const cards = /** @type {Map<string, ModelCard>} */ (new Map());
const rates = new Rates();
const toLoad = new ModelsToLoad();
const loading = new ModelsThatLoad();
const failures = new Map();
const busy = new Set();

let models = /** @type {ModelFacts[]} */ ([]);
let shown = false;
let timer = 0;
let looking = 0; // which look this is: an older answer is not shown after a newer one
let servedBefore = '';
let onServed = () => {};

/** @param {() => void} whenServed is called when the service has other models than before */
export function startModels(whenServed) {
  onServed = whenServed;
  startAdminKey(look);
  filter.addEventListener('change', showAll);
  document.addEventListener('visibilitychange', look);
  if (toLoad.size) look();
}

/** Whether the view is shown; `clones` in the address chooses that filter. @param {boolean} now @param {URLSearchParams} parameters */
export function showModels(now, parameters) {
  shown = now;
  if (now && parameters.has('clones')) {
    clonesBox.checked = true;
    filter.elements['models-task'].value = '';
  }
  look();
}

/** The service is asked while the view is shown, and in any view while this tab waits for a model. */
async function look() {
  clearTimeout(timer);
  if (!(shown && !document.hidden) && !waits()) return;
  looking += 1;
  const own = looking;
  let pause = PAUSE_MS;
  try {
    const found = await readModels();
    if (own === looking) takeIn(found);
  } catch (error) {
    if (own === looking && needsAdminKey(error)) {
      askForAdminKey();
      pause = 0; // what everybody may see needs no admin key
    } else if (own === looking && error.status !== 401) showError(errorLine, `The list of models did not load. ${inWords(error)}`);
  }
  if (own !== looking) return;
  clearTimeout(timer);
  timer = setTimeout(look, pauseOf(pause));
}

/** Whether this tab waits for a model. */
function waits() {
  return toLoad.size > 0 || loading.size > 0;
}

function pauseOf(usual) {
  const moves = waits() || models.some(({ phase }) => MOVING.includes(phase));
  return moves ? Math.min(usual, BUSY_PAUSE_MS) : usual;
}

function takeIn(found) {
  models = found.map(withErrand);
  hideError(errorLine);
  tellOthers();
  showAll();
  loadAdded();
}

/** A model that this tab has asked for is shown as being loaded until the service says how that ended. */
function withErrand(model) {
  const outcome = loading.outcome(model);
  if (outcome === 'loading') return { ...model, phase: 'loading', cause: '' };
  if (outcome === 'served') say(`${model.id} is ready and can be used.`);
  if (outcome === 'failed') say(`${model.id} was not loaded. ${model.cause}`);
  return model;
}

function tellOthers() {
  const names = JSON.stringify(models.filter(({ phase }) => phase === 'served').map(({ id }) => id));
  if (servedBefore && names !== servedBefore) onServed();
  servedBefore = names;
}

/** What this tab has added is loaded at once. */
function loadAdded() {
  for (const { id, phase, cause } of models.filter((model) => toLoad.has(model.id))) {
    if (phase === 'installed') {
      toLoad.delete(id);
      say(`${id} is fetched, and is being loaded.`);
      change('load', id);
    } else if (!MOVING.includes(phase)) {
      toLoad.delete(id);
      if (phase === 'stopped') say(`${id} was not added. ${cause}`);
    }
  }
}

/** Do something with a model; what is refused for want of a key is done again with one. */
async function change(action, id) {
  if (busy.has(id)) return;
  busy.add(id);
  failures.delete(id);
  showAll();
  try {
    await DOINGS[action](id, action);
  } catch (error) {
    if (needsAdminKey(error)) askForAdminKey(() => change(action, id));
    else fail(id, error);
  } finally {
    busy.delete(id);
    await look();
  }
}

async function add(id) {
  await addModel(id);
  toLoad.add(id);
  rates.forget(id);
  say(`${id} is being fetched. It will be loaded as soon as it is here.`);
}

async function load(id) {
  const { created } = await loadModel(id);
  loading.add(id, created);
  say(`${id} is being loaded.`);
}

async function unload(id) {
  await unloadModel(id);
  say(`${id} takes no new requests, and leaves memory when its open ones have ended.`);
}

async function discard(id, action) {
  toLoad.delete(id);
  await removeModel(id);
  rates.forget(id);
  say(REMOVED[action](id));
}

function fail(id, error) {
  failures.set(id, inWords(error));
  say(`${id}: ${inWords(error)}`);
}

function say(words) {
  news.textContent = words;
}

function showAll() {
  served.show(models, (id) => busy.has(id));
  const known = models.filter(({ entry }) => entry);
  const task = filter.elements['models-task'].value;
  const chosen = known.filter((model) => (!task || model.task === task) && (!clonesBox.checked || model.clones));
  for (const model of known) card(model.id).show(model, { rate: rateOf(model), failure: failures.get(model.id) ?? '', busy: busy.has(model.id) });
  showSections(chosen);
  count.textContent = known.length ? `${chosen.length} of ${known.length} models` : '';
  publish('modelsShown', chosen.length);
}

function rateOf({ id, phase, entry }) {
  return phase === 'fetching' ? rates.note(id, entry.addition.received_bytes, performance.now() / 1000) : 0;
}

function card(id) {
  if (!cards.has(id)) cards.set(id, new ModelCard(id, change));
  return cards.get(id);
}

/** A heading and a list for each task. What is there already stays, with its focus. */
function showSections(chosen) {
  for (const [task, title] of Object.entries(TASKS)) {
    const own = chosen.filter((model) => model.task === task).map(({ id }) => card(id).item);
    const section = sectionOf(task, title);
    section.hidden = own.length === 0;
    const list = section.querySelector('ul');
    const same = list.children.length === own.length && own.every((item, index) => list.children[index] === item);
    if (!same) list.replaceChildren(...own);
  }
}

function sectionOf(task, title) {
  const before = byId(`models-of-${task}`);
  if (before) return before;
  const heading = element('h4', { id: `models-title-${task}`, textContent: title });
  const list = element('ul', { className: 'models' });
  list.setAttribute('aria-labelledby', heading.id);
  const section = element('div', { id: `models-of-${task}`, className: 'models-section' }, heading, list);
  catalogue.append(section);
  return section;
}
