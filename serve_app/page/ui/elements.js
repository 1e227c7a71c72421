// Small helpers for the elements of the page.

import { inWords } from '../service/api.js';

/** @param {string} id */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * A new element with properties, and what is in it.
 * @param {string} name
 * @param {Record<string, unknown>} properties
 * @param {...(Node | string)} children
 */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Scroll until an element is in view, and no further. @param {HTMLElement} node */
export function reveal(node) {
  node.scrollIntoView({ block: 'nearest' });
}

/** @param {HTMLElement} line @param {unknown} error */
export function showError(line, error) {
  line.textContent = typeof error === 'string' ? error : inWords(error);
  line.hidden = false;
  reveal(line);
}

/** @param {HTMLElement} line */
export function hideError(line) {
  line.hidden = true;
  line.textContent = '';
}

/** Publish a plain fact on <body data-…>, for people with tools and for tests. */
export function publish(name, value) {
  document.body.dataset[name] = String(value);
}

export function withdraw(name) {
  delete document.body.dataset[name];
}

/** A duration in words; a dash for one that is not known. @param {number} value seconds */
export function seconds(value) {
  if (!Number.isFinite(value)) return '–';
  if (value < 60) return `${value.toFixed(1)} s`;
  return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
}

/** A time as a player shows it; dashes for one that is not known. @param {number} value seconds */
export function clock(value) {
  if (!Number.isFinite(value)) return '–:–';
  const whole = Math.max(0, Math.floor(value));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, '0');
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

export function fillSelect(select, options) {
  const before = select.value;
  select.replaceChildren(...options);
  select.disabled = options.length === 0;
  if (options.some(({ value }) => value === before)) select.value = before;
}

export function option(value, label = value) {
  return new Option(label, value);
}

/** The languages of a model as options, by their English names. @param {string[]} codes */
export function languageOptions(codes) {
  const names = new Intl.DisplayNames(['en'], { type: 'language' });
  const known = codes.map((code) => option(code, names.of(code)));
  known.sort((one, other) => one.label.localeCompare(other.label));
  return [option('', 'Detected'), ...known];
}

/** Hide or show a button without dropping the keyboard user's place. */
export function swapButtons(hide, show) {
  const hadFocus = hide && document.activeElement === hide;
  if (show) show.hidden = false;
  if (hide) hide.hidden = true;
  if (hadFocus) show?.focus();
}

/** Disable a button without dropping the keyboard user's place. */
export function disable(button, disabled, instead) {
  if (disabled && document.activeElement === button) instead?.focus();
  button.disabled = disabled;
}

/**
 * A button that must be pressed twice, for what cannot be undone.
 * @param {HTMLButtonElement} button @param {string} question @param {() => void} action
 */
export function confirmed(button, question, action) {
  const label = button.textContent;
  let timer = 0;
  const reset = () => {
    clearTimeout(timer);
    timer = 0;
    button.textContent = label;
  };
  button.addEventListener('blur', reset);
  button.addEventListener('click', () => {
    if (timer) {
      reset();
      action();
      return;
    }
    button.textContent = question;
    timer = setTimeout(reset, 4000);
  });
}
