// The Cluster view: placements, queues, batches, buffers and first results, asked for while the view is shown.

import { PLACEMENT_STATES } from '../models/words.js';
import { askJson } from '../service/api.js';
import { byId, element, hideError, publish, seconds, showError } from '../ui/elements.js';
import { drawFirstResults, recentOf, wordsOf } from './chart.js';

const PAUSE_MS = 2000;
const GIGABYTE = 1e9;
const FULL_BUFFER_SECONDS = 5;

const summary = byId('cluster-summary');
const placements = byId('cluster-placements');
const streams = byId('cluster-streams');
const errorLine = byId('cluster-error');

let shown = false;
let timer = 0;
let before = new Map();

export function startCluster() {
  document.addEventListener('visibilitychange', look);
}

/** Whether the view is shown: only then the service is asked. @param {boolean} now */
export function showCluster(now) {
  shown = now;
  look();
}

async function look() {
  clearTimeout(timer);
  if (!shown || document.hidden) return;
  try {
    show(await askJson('/v1/status'));
    hideError(errorLine);
  } catch (error) {
    if (error.status !== 401) showError(errorLine, error);
  }
  clearTimeout(timer);
  timer = setTimeout(look, PAUSE_MS);
}

function show(status) {
  const now = Date.now() / 1000;
  showSummary(status);
  const recent = recentOf(status.first_results, now);
  drawFirstResults(byId('first-chart'), recent, status.first_sound_alarm_ms, now);
  byId('first-words').textContent = wordsOf(recent);
  placements.replaceChildren(...status.placements.map(placementCard));
  streams.replaceChildren(...status.streams.map(streamBar));
  before = new Map(status.placements.map(({ name, steps }) => [name, steps]));
  publish('clusterPlacements', status.placements.length);
}

function showSummary({ placements: all, streams: open }) {
  const queues = all.map(({ queue }) => queue).filter(Boolean);
  const sum = (key) => queues.reduce((total, queue) => total + queue[key], 0);
  const ready = all.filter(({ state }) => state === 'ready').length;
  summary.replaceChildren(
    fact('Placements ready', `${ready} of ${all.length}`),
    fact('Open requests', String(sum('open'))),
    fact('Audio that waits', seconds(sum('queued_seconds'))),
    fact('Open streams', String(open.length)),
    fact('Refused so far', String(sum('refused'))),
  );
}

function placementCard(placement) {
  const { name, hardware, model, task, state, cause, device, memory_bytes: memory, queue, steps } = placement;
  const card = element('li', { className: 'placement' },
    element('h4', {}, model, element('span', { className: 'tag', textContent: hardware })),
    element('p', { className: 'hint' }, `${task}${device && device !== hardware ? `, ${device}` : ''}`),
    element('p', { className: 'state' }, element('span', { className: 'dot' }), PLACEMENT_STATES[state]));
  card.dataset.state = state;
  if (cause) card.append(element('p', { className: 'hint', textContent: cause }));
  const facts = element('dl', { className: 'facts' });
  facts.append(
    fact('Queue', queue ? `${queue.open} open, ${seconds(queue.queued_seconds)}` : 'empty'),
    fact('Expected wait', queue ? seconds(queue.wait_s) : '–'),
    fact('Speed', queue ? `${queue.speed.toFixed(1)}× real time` : '–'),
    fact('Memory', memory ? `${(memory / GIGABYTE).toFixed(2)} GB` : '–'),
  );
  card.append(facts);
  if (steps?.steps) card.append(batches(steps, before.get(name), placement.max_batch_size));
  return card;
}

/** Batch sizes: of the steps since the last look, or of all steps. */
function batches(steps, earlier, most) {
  const recent = earlier && steps.steps > earlier.steps
    ? (steps.items - earlier.items) / (steps.steps - earlier.steps)
    : steps.items / steps.steps;
  const label = `Batch ${recent.toFixed(1)} of ${most} on average, ${steps.largest} at most; ${steps.steps.toLocaleString('en')} steps`;
  return element('div', { className: 'batch' }, bar(recent / most, label), element('span', { className: 'hint', textContent: label }));
}

function streamBar({ model, placement, made_seconds: made, buffered_seconds: buffered }) {
  const label = made
    ? `${placement}: ${buffered >= 0 ? `${seconds(buffered)} ahead` : `${seconds(-buffered)} without audio`}, ${seconds(made)} made`
    : `${placement}: waits for its first audio`;
  const item = element('li', {}, bar(buffered / FULL_BUFFER_SECONDS, `Buffer of a stream of ${model}`), element('span', { textContent: label }));
  item.classList.toggle('dry', made > 0 && buffered < 0);
  return item;
}

function bar(part, label) {
  const made = element('div', { className: 'bar' });
  const share = Math.max(0, Math.min(1, part));
  made.style.setProperty('--part', share.toFixed(3));
  made.setAttribute('role', 'meter');
  made.setAttribute('aria-label', label);
  made.setAttribute('aria-valuemin', '0');
  made.setAttribute('aria-valuemax', '100');
  made.setAttribute('aria-valuenow', String(Math.round(share * 100)));
  return made;
}

function fact(name, value) {
  return element('div', {}, element('dt', { textContent: name }), element('dd', { textContent: value }));
}
