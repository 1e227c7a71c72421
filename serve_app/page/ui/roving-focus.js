// One tab stop for many items: the Tab key goes to one of them, and the arrow keys go from there.

const STEPS = { ArrowLeft: -1, ArrowRight: +1, Home: -Infinity, End: Infinity };

/** The items that match a selector in a box. Without any, the box itself is the tab stop, so that the keyboard can scroll it. */
export class RovingFocus {
  #box;
  #selector;
  #stop = /** @type {HTMLElement | null} */ (null);

  /** @param {HTMLElement} box @param {string} selector of items that are made with a tabindex of -1 */
  constructor(box, selector) {
    this.#box = box;
    this.#selector = selector;
    box.addEventListener('keydown', (event) => this.#move(event));
    box.addEventListener('focusin', ({ target }) => {
      if (target.matches(selector)) this.#stopAt(target);
    });
    this.refresh();
  }

  /** There are other items now. */
  refresh() {
    if (!this.#stop?.isConnected) this.#stopAt(this.#box.querySelector(this.#selector));
  }

  #stopAt(item) {
    if (this.#stop) this.#stop.tabIndex = -1;
    this.#stop = item;
    if (item) item.tabIndex = 0;
    this.#box.tabIndex = item ? -1 : 0;
  }

  #move(event) {
    if (!(event.key in STEPS) || event.ctrlKey || event.metaKey || event.altKey || !event.target.matches(this.#selector)) return;
    const all = [...this.#box.querySelectorAll(this.#selector)];
    const to = Math.max(0, Math.min(all.length - 1, all.indexOf(event.target) + STEPS[event.key]));
    event.preventDefault();
    all[to].focus();
  }
}
