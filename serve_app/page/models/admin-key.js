// The admin key: asked for when a change needs it, kept in the tab only, and used for changes only.

import { hasAdminKey, useAdminKey } from '../service/api.js';
import { byId, hideError, showError } from '../ui/elements.js';

const NEEDED = 'Changing the models needs an admin key.';
const REFUSED = 'The service does not take this as an admin key. In a service without keys only its own machine may change models; elsewhere, its operator adds an admin key to security.keys.';

const form = byId('admin-form');
const input = byId('admin-input');
const errorLine = byId('admin-error');
const openButton = byId('admin-open');

let refused = /** @type {(() => void) | null} */ (null); // what was refused, to be done again with the key

/** @param {() => Promise<void>} onChange is called when there is another key, or none, and tries it */
export function startAdminKey(onChange) {
  showButton();
  openButton.addEventListener('click', () => {
    if (hasAdminKey()) forget(onChange);
    else openForm(form.hidden);
  });
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    takeKey(onChange);
  });
}

/** Whether an error says that an admin key is missing or wrong. */
export function needsAdminKey({ admin, status, code }) {
  return Boolean(admin) && (status === 401 || code === 'admin_key_needed');
}

/** Forget a key that was refused, and ask for another one. @param {() => void} [again] is done again with it */
export function askForAdminKey(again) {
  if (again) refused = again;
  openForm(true);
  showError(errorLine, hasAdminKey() ? REFUSED : NEEDED);
  useAdminKey('');
  showButton();
}

async function takeKey(onChange) {
  useAdminKey(input.value);
  openForm(false);
  showButton();
  byId('models-title').focus();
  await onChange();
  if (!hasAdminKey()) return;
  const again = refused;
  refused = null;
  again?.();
}

function forget(onChange) {
  useAdminKey('');
  showButton();
  onChange();
}

function openForm(open) {
  form.hidden = !open;
  openButton.setAttribute('aria-expanded', String(open));
  input.value = '';
  hideError(errorLine);
  if (!open) return;
  input.focus();
}

function showButton() {
  openButton.textContent = hasAdminKey() ? 'Forget the admin key' : 'Use an admin key';
}
