// The words of a take, with the one that sounds highlighted.

import { publish } from './ui.js';

export class SpokenWords {
  #box;
  #words = [];
  #current = -1;
  #timer = 0;

  constructor(box) {
    this.#box = box;
  }

  /** Forget the words of the take before. */
  clear() {
    this.rest();
    this.#words = [];
    this.#box.replaceChildren();
    this.#box.hidden = true;
  }

  /** More words, each with its text, start and end in seconds. */
  add(words) {
    for (const { text, start, end } of words) {
      const span = document.createElement('span');
      span.textContent = text;
      this.#words.push({ span, start, end });
      this.#box.append(span, ' ');
    }
    this.#box.hidden = this.#words.length === 0;
  }

  /** Highlight along with a player until rest() is called. */
  follow(heardSeconds) {
    this.rest();
    const tick = () => {
      this.#show(this.#at(heardSeconds()));
      this.#timer = requestAnimationFrame(tick);
    };
    tick();
  }

  rest() {
    cancelAnimationFrame(this.#timer);
    this.#show(-1);
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

  #show(index) {
    if (index === this.#current) return;
    this.#words[this.#current]?.span.classList.remove('sounding');
    this.#current = index;
    const span = this.#words[index]?.span;
    if (!span) return;
    span.classList.add('sounding');
    if (span.offsetTop + span.offsetHeight > this.#box.scrollTop + this.#box.clientHeight || span.offsetTop < this.#box.scrollTop) {
      this.#box.scrollTop = span.offsetTop - this.#box.clientHeight / 3;
    }
    publish('spokenWord', span.textContent);
  }
}
