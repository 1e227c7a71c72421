// The buttons and links of models.

import { confirmed, element } from '../ui/elements.js';
import { USES } from './words.js';

const LABELS = { add: 'Add', cancel: 'Cancel', resume: 'Resume', discard: 'Discard', load: 'Load', remove: 'Remove', unload: 'Unload' };
const PRIMARY = ['add', 'resume', 'load'];
const QUESTIONS = { remove: 'Remove?', unload: 'Unload?', discard: 'Discard?' };

/**
 * A button that does one thing with a model; what others would miss must be pressed twice.
 * @param {string} action @param {string} id @param {boolean} busy @param {(action: string, id: string) => void} onAction
 */
export function actionButton(action, id, busy, onAction) {
  const button = element('button', { type: 'button', className: 'button small', textContent: LABELS[action], disabled: busy });
  button.classList.toggle('primary', PRIMARY.includes(action));
  button.dataset.action = action;
  button.setAttribute('aria-label', `${LABELS[action]} ${id}`);
  const act = () => onAction(action, id);
  if (action in QUESTIONS) confirmed(button, QUESTIONS[action], act);
  else button.addEventListener('click', act);
  return button;
}

/** A link to the view that uses a model, which chooses it there. */
export function useLink(id, task) {
  const { view, label } = USES[task];
  const link = element('a', { className: 'button small primary', href: `#${view}?model=${encodeURIComponent(id)}`, textContent: label });
  link.setAttribute('aria-label', `${label}: ${id}`);
  return link;
}
