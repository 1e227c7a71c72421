// Saving what was spoken: as it was played, in another format, or as captions.

import { ask } from '../service/api.js';
import { cuesOf, srt, vtt } from '../text/subtitles.js';
import { save } from '../ui/clipboard.js';
import { byId, fillSelect, option } from '../ui/elements.js';
import { OneAtATime } from '../ui/one-at-a-time.js';

const SOUNDS = [['wav', 'WAV'], ['mp3', 'MP3'], ['opus', 'Opus'], ['aac', 'AAC'], ['flac', 'FLAC']];
const CAPTIONS = [['srt', 'Captions (SRT)'], ['vtt', 'Captions (WebVTT)']];
const NOTHING = 'There is nothing to save until something has been spoken.';
const PART = 'Only a part was spoken. What arrived can be saved.';
const AGAIN = 'The service encodes it: the same words with the same seed.';
const PREPARING = 'The service encodes it now…';

const format = byId('speak-format');
const button = byId('speak-download');
const note = byId('speak-download-note');

/**
 * What was spoken.
 * @typedef {object} Performance
 * @property {import('../sound/take.js').Take} take
 * @property {import('../sound/take.js').TimedWord[]} words
 * @property {object} request its body
 * @property {string} name of the file, without its ending
 */

const preparation = new OneAtATime();

let performance = /** @type {Performance | null} */ (null);
let prepared = /** @type {{of: Performance, kind: string} | null} */ (null);

/** @param {(error: unknown) => void} onError */
export function startDownload(onError) {
  offer(null);
  button.addEventListener('click', () => download(performance, format.value, onError));
  format.addEventListener('change', explain);
}

/** Saves a performance as it was chosen by the click, whatever is shown once it is prepared. A newer click replaces an older one. */
async function download(of, kind, onError) {
  if (prepared?.of === of && prepared.kind === kind) return;
  prepared = { of, kind };
  explain();
  const outcome = await preparation.run(async (signal) => {
    const file = await fileOf(of, kind, signal);
    signal.throwIfAborted();
    save(file, `${of.name}${of.take.whole ? '' : '-part'}.${kind}`);
  }, onError);
  if (outcome === 'replaced') return;
  prepared = null;
  explain();
}

/** Offer what was spoken; null while there is nothing. @param {Performance | null} spoken */
export function offer(spoken) {
  performance = spoken;
  fillSelect(format, choicesFor(spoken).map(([value, label]) => option(value, label)));
  button.disabled = spoken === null;
  explain();
}

/** Another format is spoken again, and would be all of it: of a part, there is only what was played. */
function choicesFor(spoken) {
  const sounds = spoken?.take.whole === false ? SOUNDS.slice(0, 1) : SOUNDS;
  return spoken && !spoken.words.length ? sounds : [...sounds, ...CAPTIONS];
}

function explain() {
  note.textContent = noteFor(format.value);
}

function noteFor(kind) {
  if (!performance) return NOTHING;
  if (!performance.take.whole) return PART;
  if (!SOUNDS.slice(1).some(([value]) => value === kind)) return '';
  return prepared?.of === performance && prepared.kind === kind ? PREPARING : AGAIN;
}

/** @param {Performance} spoken @param {string} wanted @param {AbortSignal} signal @returns {Promise<Blob>} */
async function fileOf({ take, words, request }, wanted, signal) {
  if (wanted === 'wav') return take.toWav();
  if (wanted === 'srt') return new Blob([srt(cuesOf(words))], { type: 'application/x-subrip' });
  if (wanted === 'vtt') return new Blob([vtt(cuesOf(words))], { type: 'text/vtt' });
  const response = await ask('/v1/audio/speech', { json: { ...request, response_format: wanted }, signal });
  return response.blob();
}
