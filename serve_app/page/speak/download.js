// Saving what was spoken: as it was played, in another format, or as captions.

import { ask } from '../service/api.js';
import { cuesOf, srt, vtt } from '../text/subtitles.js';
import { save } from '../ui/clipboard.js';
import { byId, fillSelect, option } from '../ui/elements.js';

const SOUNDS = [['wav', 'WAV'], ['mp3', 'MP3'], ['opus', 'Opus'], ['aac', 'AAC'], ['flac', 'FLAC']];
const CAPTIONS = [['srt', 'Captions (SRT)'], ['vtt', 'Captions (WebVTT)']];
const NOTHING = 'There is nothing to save until something has been spoken.';

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

let performance = /** @type {Performance | null} */ (null);

/** @param {(error: unknown) => void} onError */
export function startDownload(onError) {
  offer(null);
  button.addEventListener('click', async () => {
    button.disabled = true;
    try {
      save(await fileOf(performance, format.value), `${performance.name}.${format.value}`);
    } catch (error) {
      onError(error);
    } finally {
      button.disabled = performance === null;
    }
  });
  format.addEventListener('change', explain);
}

/** Offer what was spoken; null while there is nothing. @param {Performance | null} spoken */
export function offer(spoken) {
  performance = spoken;
  const choices = spoken && !spoken.words.length ? SOUNDS : [...SOUNDS, ...CAPTIONS];
  fillSelect(format, choices.map(([value, label]) => option(value, label)));
  button.disabled = spoken === null;
  explain();
}

function explain() {
  const again = SOUNDS.slice(1).some(([value]) => value === format.value);
  note.textContent = performance ? (again ? 'The service encodes it: the same words with the same seed.' : '') : NOTHING;
}

/** @param {Performance} spoken @returns {Promise<Blob>} */
async function fileOf({ take, words, request }, wanted) {
  if (wanted === 'wav') return take.toWav();
  if (wanted === 'srt') return new Blob([srt(cuesOf(words))], { type: 'application/x-subrip' });
  if (wanted === 'vtt') return new Blob([vtt(cuesOf(words))], { type: 'text/vtt' });
  const response = await ask('/v1/audio/speech', { json: { ...request, response_format: wanted } });
  return response.blob();
}
