// Play, pause and seek: one look for every player of the Studio.

import { durationAt } from '../sound/duration.js';
import { clock } from './elements.js';

const REST_MS = 150;

const template = document.getElementById('transport-template');

/** The transport that was started last: only one plays at a time. */
let started = /** @type {Transport | null} */ (null);

/**
 * What a transport plays.
 * @typedef {object} Playable
 * @property {number} duration seconds; 0 while it is not known
 * @property {number} position seconds
 * @property {boolean} playing
 * @property {() => void | Promise<void>} play
 * @property {() => void} pause
 * @property {(seconds: number) => void} seek
 */

export class Transport {
  #place;
  #button;
  #range;
  #time;
  #playable = null;
  #onFrame;
  #round = 0;

  /** `onFrame` gets the position in seconds whenever it may have changed. @param {HTMLElement} place */
  constructor(place, onFrame = () => {}) {
    this.#place = place;
    this.#onFrame = onFrame;
    place.append(template.content.cloneNode(true));
    this.#button = place.querySelector('button');
    this.#range = place.querySelector('input');
    this.#time = place.querySelector('.time');
    this.#button.addEventListener('click', () => this.toggle());
    this.#range.addEventListener('input', () => this.seek(Number(this.#range.value)));
    place.addEventListener('keydown', (event) => {
      if (event.key !== ' ' || event.target === this.#button) return;
      event.preventDefault();
      if (!event.repeat) this.toggle();
    });
  }

  /** Show a playable; null hides the transport. @param {Playable | null} playable */
  use(playable) {
    if (playable !== this.#playable) this.#playable?.pause();
    this.#round += 1;
    this.#playable = playable;
    this.#place.hidden = playable === null;
    if (playable) this.#follow();
  }

  get playing() {
    return this.#playable?.playing ?? false;
  }

  toggle() {
    if (this.#playable?.playing) this.#playable.pause();
    else this.play();
  }

  async play() {
    if (started !== this) started?.pause();
    started = this;
    const playable = this.#playable;
    await playable?.play();
    if (playable === this.#playable) this.#follow(); // another may be shown by now
  }

  pause() {
    this.#playable?.pause();
  }

  seek(seconds) {
    this.#playable?.seek(seconds);
    this.#follow();
  }

  /** Show the playable until another follows: every frame while it plays, and calmly while it rests. */
  #follow() {
    this.#round += 1;
    const round = this.#round;
    const tick = () => {
      if (!this.#playable || round !== this.#round) return;
      this.#show();
      if (this.#playable.playing) requestAnimationFrame(tick);
      else setTimeout(tick, REST_MS);
    };
    tick();
  }

  #show() {
    const { duration, position, playing } = this.#playable;
    const label = playing ? 'Pause' : 'Play';
    const words = duration ? `${clock(position)} / ${clock(duration)}` : clock(position);
    this.#place.dataset.playing = String(playing);
    if (this.#button.getAttribute('aria-label') !== label) this.#button.setAttribute('aria-label', label);
    this.#range.disabled = !duration;
    this.#range.max = String(duration || 1);
    this.#range.value = String(position);
    this.#range.style.setProperty('--part', duration ? String(position / duration) : '0');
    if (this.#time.textContent !== words) {
      this.#time.textContent = words;
      this.#range.setAttribute('aria-valuetext', duration ? `${clock(position)} of ${clock(duration)}` : clock(position));
    }
    this.#onFrame(position);
  }
}

/** An audio element as something to play. @implements {Playable} */
export class MediaPlayable {
  #audio = new Audio();
  #seconds;

  /**
   * @param {string} url
   * @param {{seconds?: number, onError?: () => void}} options `seconds`: the duration if the file does not state it
   */
  constructor(url, { seconds = 0, onError = () => {} } = {}) {
    this.#seconds = seconds;
    this.#audio.addEventListener('error', onError);
    this.#audio.addEventListener('loadedmetadata', () => this.#measure(url), { once: true });
    this.#audio.preload = 'auto';
    this.#audio.src = url;
  }

  get duration() {
    return Number.isFinite(this.#audio.duration) ? this.#audio.duration : this.#seconds;
  }

  get position() {
    return this.#audio.currentTime;
  }

  get playing() {
    return !this.#audio.paused && !this.#audio.ended;
  }

  async play() {
    await this.#audio.play().catch(() => {}); // a browser that cannot play the file says so through `playing`
  }

  pause() {
    this.#audio.pause();
  }

  seek(seconds) {
    this.#audio.currentTime = Math.max(0, Math.min(seconds, this.duration || seconds));
  }

  /** A file that was streamed states no duration; another element finds its end, and this one keeps its place. */
  async #measure(url) {
    if (this.#audio.duration === Infinity && !this.#seconds) this.#seconds = (await durationAt(url)) || 0;
  }
}
