// A transcript on the page: it grows while a recording is heard, its words seek, and its speakers have colours.

import { clock, element } from '../ui/elements.js';
import { RovingFocus } from '../ui/roving-focus.js';
import { WordTrack } from '../ui/word-track.js';

/**
 * @typedef {{word: string, start: number, end: number, speaker?: string, attached?: boolean}} TranscribedWord times in seconds;
 *   an `attached` word follows the one before it without a space, as in Chinese
 * @typedef {{start: number, end: number, text: string, speaker: string}} SpokenSegment
 */

const COLOURS = 6;
const LONGEST_PARAGRAPH_WORDS = 90;
const SENTENCE_END = /[.!?…。！？]["'”’)]*$/u;

export class Transcript {
  #box;
  #onSeek;
  #track;
  #focus;
  #speakers = new Map();
  text = '';
  words = /** @type {TranscribedWord[]} */ ([]);

  /** `onSeek` gets the time of a chosen word in seconds. @param {HTMLElement} box */
  constructor(box, onSeek) {
    this.#box = box;
    this.#onSeek = onSeek;
    this.#track = new WordTrack(box);
    box.addEventListener('click', ({ target }) => this.#choose(target));
    this.#focus = new RovingFocus(box, '[data-start]');
  }

  clear() {
    this.#track.clear();
    this.#speakers.clear();
    this.text = '';
    this.words = [];
    this.#box.replaceChildren();
    this.#focus.refresh();
  }

  /** More text, with the times of its words if the model knows them. @param {TranscribedWord[]} [words] */
  add(delta, words = []) {
    const atEnd = this.#box.scrollHeight - this.#box.scrollTop - this.#box.clientHeight < 24;
    const placed = withAttachment(words, delta, /\S$/.test(this.text));
    this.text += delta;
    this.words.push(...placed);
    const paragraph = this.#openParagraph();
    if (words.length) this.#append(paragraph, placed);
    else paragraph.append(delta);
    this.#focus.refresh();
    if (atEnd) this.#box.scrollTop = this.#box.scrollHeight;
  }

  /** The whole text is known, and who says what. @param {string} text @param {SpokenSegment[]} segments */
  finish(text, segments) {
    const focused = this.#box.contains(document.activeElement) ? document.activeElement : null;
    this.#rebuild(text, segments);
    this.#focus.refresh();
    if (focused && !focused.isConnected) this.#box.querySelector(`.word[data-start="${focused.dataset.start}"]`)?.focus();
  }

  #rebuild(text, segments) {
    this.text = text;
    if (!this.words.length) {
      this.#box.replaceChildren(...(segments.length ? segments.map((segment) => this.#plain(segment)) : [text]));
      return;
    }
    if (segments.length) this.words = this.words.map((word) => ({ ...word, speaker: speakerOf(word, segments) }));
    this.#track.clear();
    this.#box.replaceChildren();
    for (const group of paragraphsOf(this.words)) this.#append(this.#paragraph(group[0].speaker, group[0].start), group);
    this.#box.scrollTop = 0;
  }

  /** Highlight the word that sounds at a time in seconds. */
  show(seconds) {
    this.#track.show(seconds);
  }

  #openParagraph() {
    return this.#box.lastElementChild?.lastElementChild ?? this.#paragraph();
  }

  /** A new paragraph; returns the place of its words. */
  #paragraph(speaker, start) {
    const body = element('span', { className: 'said' });
    const line = element('p', {});
    if (speaker) {
      line.className = 'turn';
      line.dataset.speaker = String(this.#colourOf(speaker));
      line.append(element('strong', { textContent: `Speaker ${speaker}` }), ' ');
    }
    if (start !== undefined) line.append(this.#timeButton(start), ' ');
    line.append(body);
    this.#box.append(line);
    return body;
  }

  #timeButton(start) {
    const button = element('button', { type: 'button', className: 'time-link', textContent: clock(start), tabIndex: -1 });
    button.dataset.start = String(start);
    button.setAttribute('aria-label', `Play from ${clock(start)}`);
    return button;
  }

  #plain({ speaker, start, text }) {
    const line = element('p', { className: 'turn' }, element('strong', { textContent: `Speaker ${speaker}` }), ' ', this.#timeButton(start), ' ', text);
    line.dataset.speaker = String(this.#colourOf(speaker));
    return line;
  }

  #append(body, words) {
    for (const { word, start, end, attached } of words) {
      const button = element('button', { type: 'button', className: 'word', textContent: word, tabIndex: -1 });
      button.dataset.start = String(start);
      this.#track.add(button, start, end);
      if (body.lastChild && !attached) body.append(' ');
      body.append(button);
    }
  }

  #colourOf(speaker) {
    if (!this.#speakers.has(speaker)) this.#speakers.set(speaker, this.#speakers.size % COLOURS);
    return this.#speakers.get(speaker);
  }

  #choose(target) {
    const { start } = target.dataset ?? {};
    if (start !== undefined) this.#onSeek(Number(start));
  }
}

/** The words of a part of the text, each with whether a space is before it. */
function withAttachment(words, text, follows) {
  let cursor = 0;
  return words.map((word) => {
    const at = text.indexOf(word.word, cursor);
    if (at < 0) return word;
    const attached = at === cursor && (cursor > 0 || follows);
    cursor = at + word.word.length;
    return attached ? { ...word, attached } : word;
  });
}

/** The segment in which the middle of a word is, or the nearest one. */
function speakerOf({ start, end }, segments) {
  const middle = (start + end) / 2;
  const away = (segment) => Math.max(segment.start - middle, middle - segment.end, 0);
  return segments.reduce((best, segment) => (away(segment) < away(best) ? segment : best)).speaker;
}

/** Words of one speaker, and of not too many sentences, together. */
function paragraphsOf(words) {
  const groups = [];
  for (const word of words) {
    const group = groups.at(-1);
    const long = group && group.length >= LONGEST_PARAGRAPH_WORDS && SENTENCE_END.test(group.at(-1).word);
    if (group && group.at(-1).speaker === word.speaker && !long) group.push(word);
    else groups.push([word]);
  }
  return groups;
}
