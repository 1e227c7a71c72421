// What can be done with a recording, as requests and their events: stems, less noise, or a new voice.

import { ServiceError, ask } from '../service/api.js';
import { bytesOf, eventsOf } from '../service/sse.js';
import { withTrueLengths } from '../sound/wav.js';

/**
 * @typedef {object} TaskOptions
 * @property {'stems' | 'enhance' | 'revoice'} task
 * @property {File} file
 * @property {string} model that separates
 * @property {string[]} stems
 * @property {{model: string, id: string}} voice for the new voice
 * @property {boolean} background whether what is behind the speech stays
 */

/**
 * @typedef {object} TaskReports
 * @property {(part: number, remainingSeconds: number | null) => void} onProgress
 * @property {(phrase: {text: string, start: number}) => void} onPhrase
 */

const TASKS = {
  stems: {
    path: '/v1/audio/separations',
    form: ({ model, stems }) => [['model', model], ...stems.map((stem) => ['stems', stem])],
  },
  enhance: { path: '/v1/audio/enhancements', form: ({ model }) => [['model', model]] },
  revoice: {
    path: '/v1/audio/revoice',
    form: ({ voice, background }) => [['model', voice.model], ['voice', voice.id], ['background', background ? 'keep' : 'drop']],
  },
};
const TRACK_OF = { enhance: 'cleaned', revoice: 'new voice' };

/**
 * Does a task; returns its tracks as WAV files, in the order in which they began.
 * @param {TaskOptions} options
 * @param {TaskReports} reports
 * @param {AbortSignal} signal
 * @returns {Promise<{tracks: Map<string, Blob>, gaps: {start: number, end: number}[]}>}
 */
export async function doTask(options, { onProgress, onPhrase }, signal) {
  const { task } = options;
  const response = await ask(TASKS[task].path, { form: formOf(options), signal });
  const parts = new Map();
  const gaps = [];
  let done = false;
  for await (const event of eventsOf(response)) {
    const kind = event.type.split('.').slice(1).join('.');
    if (kind === 'audio.delta') add(parts, event.stem ?? TRACK_OF[task], bytesOf(event.audio));
    if (kind === 'progress') onProgress(event.expected_seconds ? event.seconds / event.expected_seconds : 0, event.remaining_seconds);
    if (kind === 'phrase') onPhrase(event);
    if (kind === 'gap') gaps.push(event);
    if (kind === 'audio.done') done = true;
  }
  if (!done) throw new ServiceError('The connection broke before the recording was done.');
  const tracks = new Map();
  for (const [name, pieces] of parts) tracks.set(name, await withTrueLengths(new Blob(pieces, { type: 'audio/wav' })));
  return { tracks, gaps };
}

function formOf(options) {
  const form = new FormData();
  for (const [name, value] of TASKS[options.task].form(options)) form.append(name, value);
  form.append('response_format', 'wav');
  form.append('stream_format', 'sse');
  form.append('file', options.file, options.file.name);
  return form;
}

function add(parts, name, bytes) {
  if (!parts.has(name)) parts.set(name, []);
  parts.get(name).push(bytes);
}
