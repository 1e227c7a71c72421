// The chart of first results: a dot for each request of the last minutes, and the line after which it is late.

import { element } from '../ui/elements.js';

const SPACE = 'http://www.w3.org/2000/svg';
const NARROWEST = 280;
const HEIGHT = 220;
const LEFT = 56;
const BOTTOM = 26;
const TOP = 12;
const MINUTES = 10;
const LINES_MS = [10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000];

/** @typedef {{at: number, model: string, milliseconds: number}} FirstResult */

/** The results of the last ten minutes: what the chart and its sentence are about. @param {FirstResult[]} results @param {number} now Unix seconds */
export function recentOf(results, now) {
  return results.filter(({ at }) => now - at < MINUTES * 60);
}

/**
 * Draws recent results; the place is left empty without any.
 * @param {HTMLElement} place @param {FirstResult[]} recent @param {number} alarmMs @param {number} now Unix seconds
 */
export function drawFirstResults(place, recent, alarmMs, now) {
  if (!recent.length) {
    place.replaceChildren();
    return;
  }
  const names = [...new Set(recent.map(({ model }) => model))].sort();
  const scale = scaleOf(recent, alarmMs);
  const width = widthOf(place);
  const x = (ago) => width - 6 - (ago / (MINUTES * 60)) * (width - 6 - LEFT);
  const picture = svg('svg', { viewBox: `0 0 ${width} ${HEIGHT}`, role: 'img', 'aria-label': wordsOf(recent) });
  picture.append(...grid(scale, width), ...minutes(x));
  const alarm = scale(alarmMs);
  picture.append(
    svg('line', { class: 'alarm', x1: LEFT, x2: width, y1: alarm, y2: alarm }),
    text(width, alarm - 5, `late after ${alarmMs} ms`, 'end'),
  );
  for (const { at, model, milliseconds } of recent) {
    const dot = svg('circle', { class: `dot-${names.indexOf(model) % 6}`, cx: x(now - at), cy: scale(milliseconds), r: 4.5 });
    const title = document.createElementNS(SPACE, 'title');
    title.textContent = `${model}: ${Math.round(milliseconds)} ms`;
    dot.append(title);
    picture.append(dot);
  }
  place.replaceChildren(picture, legend(names));
}

/** The results in a sentence. @param {FirstResult[]} results */
export function wordsOf(results) {
  if (!results.length) return '';
  const sorted = results.map(({ milliseconds }) => milliseconds).sort((one, other) => one - other);
  const at = (share) => Math.round(sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)]);
  const requests = sorted.length === 1 ? '1 request' : `${sorted.length} requests`;
  return `${requests}: half within ${at(0.5)} ms, 95 % within ${at(0.95)} ms`;
}

/** A logarithmic scale from milliseconds to a height. */
function scaleOf(results, alarmMs) {
  const all = [...results.map(({ milliseconds }) => milliseconds), alarmMs];
  const low = Math.log10(Math.max(1, Math.min(...all) * 0.7));
  const high = Math.log10(Math.max(...all) * 1.4);
  const scale = (ms) => HEIGHT - BOTTOM - ((Math.log10(Math.max(1, ms)) - low) / (high - low)) * (HEIGHT - BOTTOM - TOP);
  return scale;
}

function grid(scale, width) {
  return LINES_MS.map((ms) => [ms, scale(ms)]).filter(([, y]) => y > TOP - 4 && y < HEIGHT - BOTTOM).flatMap(([ms, y]) => [
    svg('line', { class: 'grid', x1: LEFT, x2: width, y1: y, y2: y }),
    text(LEFT - 8, y + 4, ms < 1000 ? `${ms} ms` : `${ms / 1000} s`, 'end'),
  ]);
}

function minutes(x) {
  return [0, 5, 10].map((ago) => text(x(ago * 60), HEIGHT - 6, ago ? `−${ago} min` : 'now', ago === 10 ? 'start' : ago ? 'middle' : 'end'));
}

/** The width of the chart in its own units, of which 16 are the size of the page's letters. */
function widthOf(place) {
  const letters = Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
  return Math.max(NARROWEST, Math.round((place.clientWidth * 16) / letters));
}

function legend(names) {
  return element('ul', { className: 'legend' }, ...names.map((name, number) => {
    const item = element('li', { textContent: name });
    item.dataset.colour = String(number % 6);
    return item;
  }));
}

function text(atX, atY, words, anchor) {
  const made = svg('text', { x: atX, y: atY, 'text-anchor': anchor });
  made.textContent = words;
  return made;
}

function svg(name, attributes) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}
