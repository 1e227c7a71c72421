// How models, sizes and speeds are written.

const MEGABYTE = 1e6;
const GIGABYTE = 1e9;
const MOST_LANGUAGES = 5;

export const TASKS = { speech: 'Speech', transcription: 'Transcription', separation: 'Separation' };

/** The view that uses the models of a task, and what its link says. */
export const USES = {
  speech: { view: 'speak', label: 'Speak with it' },
  transcription: { view: 'transcribe', label: 'Transcribe with it' },
  separation: { view: 'separate', label: 'Separate with it' },
};

export const PHASES = {
  available: 'Not added',
  fetching: 'Being fetched…',
  trying: 'Fetched. It is being tried…',
  stopped: 'Not added: the download ended early',
  installed: 'Added, not loaded',
  loading: 'Being loaded…',
  served: 'Ready: it can be used',
  'load-failed': 'Not loaded',
  unloading: 'Being unloaded…',
};

export const PLACEMENT_STATES = { ready: 'Ready', asleep: 'Asleep: starts on demand', away: 'Takes no work' };

/** @param {number | null} bytes */
export function sizeInWords(bytes) {
  if (bytes === null || bytes === undefined) return 'not known';
  if (bytes >= GIGABYTE) return `${(bytes / GIGABYTE).toFixed(2)} GB`;
  return `${(bytes / MEGABYTE).toFixed(bytes < 10 * MEGABYTE ? 1 : 0)} MB`;
}

/** How far a download is. @param {{received_bytes: number, total_bytes: number | null}} addition @param {number} rate bytes a second; 0 if not known */
export function progressInWords({ received_bytes: received, total_bytes: total }, rate) {
  const parts = [total ? `${sizeInWords(received)} of ${sizeInWords(total)}` : sizeInWords(received)];
  if (rate > 0) parts.push(`${sizeInWords(rate)}/s`);
  if (rate > 0 && total > received) parts.push(`${durationInWords((total - received) / rate)} left`);
  return parts.join(', ');
}

function durationInWords(seconds) {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** @param {string[]} codes */
export function languagesInWords(codes) {
  if (!codes.length) return 'any';
  const names = codes.slice(0, codes.length > MOST_LANGUAGES + 1 ? MOST_LANGUAGES : codes.length).map(languageName);
  const more = codes.length - names.length;
  return more ? `${names.join(', ')} and ${more} more` : names.join(', ');
}

function languageName(code) {
  if (code === 'many') return 'many';
  try {
    return new Intl.DisplayNames(['en'], { type: 'language' }).of(code);
  } catch {
    return code; // a catalogue of the operator's own may say anything
  }
}
