// Words with times, of which the one that sounds is highlighted.

/** @typedef {{element: HTMLElement, start: number, end: number}} TrackedWord times in seconds */

export class WordTrack {
  #box;
  #words = /** @type {TrackedWord[]} */ ([]);
  #current = -1;
  #onWord;

  /** @param {HTMLElement} box scrolls with the words @param {(word: HTMLElement) => void} onWord */
  constructor(box, onWord = () => {}) {
    this.#box = box;
    this.#onWord = onWord;
  }

  get length() {
    return this.#words.length;
  }

  clear() {
    this.rest();
    this.#words = [];
  }

  /** One more word, later than those before. */
  add(element, start, end) {
    this.#words.push({ element, start, end });
  }

  /** Highlight the word that sounds at a time. @param {number} seconds */
  show(seconds) {
    this.#highlight(this.#at(seconds));
  }

  rest() {
    this.#highlight(-1);
  }

  /** The last word that has begun and not ended. */
  #at(seconds) {
    let low = 0;
    let high = this.#words.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#words[middle].start <= seconds) low = middle + 1;
      else high = middle;
    }
    const word = this.#words[low - 1];
    return word && seconds < word.end ? low - 1 : -1;
  }

  #highlight(index) {
    if (index === this.#current) return;
    this.#words[this.#current]?.element.classList.remove('sounding');
    this.#current = index;
    const word = this.#words[index]?.element;
    if (!word) return;
    word.classList.add('sounding');
    this.#reveal(word);
    this.#onWord(word);
  }

  #reveal(word) {
    const box = this.#box.getBoundingClientRect();
    const place = word.getBoundingClientRect();
    if (place.bottom <= box.bottom && place.top >= box.top) return;
    this.#box.scrollTop += place.top - box.top - box.height / 3;
  }
}
