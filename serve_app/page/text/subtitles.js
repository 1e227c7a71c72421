// Subtitles from words with times: SubRip and WebVTT.

/**
 * @typedef {{text: string, start: number, end: number, speaker?: string, attached?: boolean}} SubtitleWord an attached word has no
 *   space before it
 * @typedef {{start: number, end: number, lines: string[], speaker?: string}} Cue
 */

const LINE_CHARACTERS = 42;
const LINES = 2;
const LONGEST_SECONDS = 7;
const PAUSE_SECONDS = 0.8;
const SENTENCE_END = /[.!?…。！？]["'”’)]*$/u;

/** @param {SubtitleWord[]} words @returns {Cue[]} */
export function cuesOf(words) {
  /** @type {SubtitleWord[][]} */
  const groups = [];
  for (const word of words) {
    const group = groups.at(-1);
    if (group && fits(group, word)) group.push(word);
    else groups.push([word]);
  }
  return groups.map((group) => ({
    start: group[0].start,
    end: group.at(-1).end,
    lines: linesOf(group),
    speaker: group[0].speaker,
  }));
}

/** @param {Cue[]} cues */
export function srt(cues) {
  return cues.map((cue, number) => {
    const [first, ...rest] = cue.lines;
    const said = cue.speaker ? `${cue.speaker}: ${first}` : first;
    return `${number + 1}\n${time(cue.start, ',')} --> ${time(cue.end, ',')}\n${[said, ...rest].join('\n')}\n`;
  }).join('\n');
}

/** @param {Cue[]} cues */
export function vtt(cues) {
  const blocks = cues.map((cue) => {
    const text = cue.lines.map(escaped).join('\n');
    return `${time(cue.start, '.')} --> ${time(cue.end, '.')}\n${cue.speaker ? `<v ${escaped(cue.speaker)}>` : ''}${text}\n`;
  });
  return ['WEBVTT\n', ...blocks].join('\n');
}

function fits(group, word) {
  const last = group.at(-1);
  const longer = [...group, word];
  return word.speaker === last.speaker
    && word.start - last.end < PAUSE_SECONDS
    && word.end - group[0].start <= LONGEST_SECONDS
    && !(SENTENCE_END.test(last.text) && linesOf(longer).length > 1)
    && linesOf(longer).length <= LINES;
}

function linesOf(words) {
  const lines = [''];
  for (const { text, attached } of words) {
    const longer = lines.at(-1) ? `${lines.at(-1)}${attached ? '' : ' '}${text}` : text;
    if (longer.length <= LINE_CHARACTERS || !lines.at(-1)) lines[lines.length - 1] = longer;
    else lines.push(text);
  }
  return lines;
}

function time(seconds, point) {
  const ms = Math.round(seconds * 1000);
  const parts = [Math.floor(ms / 3_600_000), Math.floor(ms / 60_000) % 60, Math.floor(ms / 1000) % 60];
  return `${parts.map((part) => String(part).padStart(2, '0')).join(':')}${point}${String(ms % 1000).padStart(3, '0')}`;
}

function escaped(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
