// Text for the clipboard, and files for the folder of downloads.

const ANSWER_MS = 1500;

/** Buttons that say what happened: their own labels, and the timers that bring these back. */
const answering = /** @type {WeakMap<HTMLElement, {label: string, timer: number}>} */ (new WeakMap());

/** Copy text, and let the button say whether it worked. On plain http the clipboard API is missing, and the old way still works. */
export async function copy(text, button) {
  answer(button, (await tryCopy(text)) ? 'Copied' : 'Copying is not allowed here');
}

/** Also when it is pressed again before its own label is back. */
function answer(button, words) {
  const { label, timer } = answering.get(button) ?? { label: button.textContent, timer: 0 };
  clearTimeout(timer);
  button.textContent = words;
  const back = () => {
    button.textContent = label;
    answering.delete(button);
  };
  answering.set(button, { label, timer: setTimeout(back, ANSWER_MS) });
}

/** Have the browser save a blob as a file. @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** The name of a file without its ending. */
export function baseName(name) {
  return name.replace(/\.[^.]+$/, '') || 'motet';
}

async function tryCopy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyTheOldWay(text);
  }
}

function copyTheOldWay(text) {
  const area = document.createElement('textarea');
  const { activeElement } = document;
  area.value = text;
  area.className = 'visually-hidden';
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  activeElement?.focus();
  return done;
}
