// The words of a take, with the one that sounds highlighted.

import { element, publish } from '../ui/elements.js';
import { WordTrack } from '../ui/word-track.js';

/** @typedef {import('../sound/take.js').TimedWord} TimedWord */

export class SpokenWords {
  #box;
  #track;
  #timer = 0;
  words = /** @type {TimedWord[]} */ ([]);

  constructor(box) {
    this.#box = box;
    this.#track = new WordTrack(box, (word) => publish('spokenWord', word.textContent));
  }

  /** Forget the words of the take before. */
  clear() {
    this.rest();
    this.#track.clear();
    this.words = [];
    this.#box.replaceChildren();
    this.#box.hidden = true;
  }

  /** @param {TimedWord[]} words more of them */
  add(words) {
    for (const word of words) {
      const span = element('span', { textContent: word.text });
      this.words.push(word);
      this.#track.add(span, word.start, word.end);
      this.#box.append(span, ' ');
    }
    this.#box.hidden = this.words.length === 0;
  }

  /** Highlight the word that sounds at a time. */
  show(seconds) {
    this.#track.show(seconds);
  }

  /** Highlight along with a player until rest() is called. */
  follow(heardSeconds) {
    this.rest();
    const tick = () => {
      this.show(heardSeconds());
      this.#timer = requestAnimationFrame(tick);
    };
    tick();
  }

  rest() {
    cancelAnimationFrame(this.#timer);
    this.#track.rest();
  }
}
