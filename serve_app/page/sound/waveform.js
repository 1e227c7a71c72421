// Draws a take as bars: what has sounded in the accent colour, what has arrived and waits in a quiet one. While a take
// sounds, a window of it passes by; at rest, all of it is shown.

const BAR_WIDTH = 3;
const BAR_PITCH = 5;
const SHORTEST_VIEW_SECONDS = 4;
const WINDOW_SECONDS = 16;
const PLAYHEAD = 0.6;
const VIEW_EASE = 0.12;
const CALM_INTERVAL_MS = 400;

const calm = matchMedia('(prefers-reduced-motion: reduce)');
const dark = matchMedia('(prefers-color-scheme: dark)');

export class Waveform {
  #canvas;
  #take = null;
  #heardSeconds = () => 0;
  #view = { start: 0, length: SHORTEST_VIEW_SECONDS };
  #timer = 0;
  #running = false;

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.draw()).observe(canvas);
    dark.addEventListener('change', () => this.draw());
  }

  /** Follow a take that sounds until rest() is called. */
  follow(take, heardSeconds) {
    this.rest();
    this.#take = take;
    this.#heardSeconds = heardSeconds;
    this.#view = this.#target();
    this.#running = true;
    this.#tick();
  }

  /** Show all of a take, of which `heardSeconds()` have sounded. */
  show(take, heardSeconds) {
    this.#take = take;
    this.#heardSeconds = heardSeconds;
    this.rest();
  }

  rest() {
    this.#running = false;
    cancelAnimationFrame(this.#timer);
    clearTimeout(this.#timer);
    if (this.#take) this.#view = { start: 0, length: Math.max(1, this.#take.seconds) };
    this.draw();
  }

  clear() {
    this.#take = null;
    this.#view = { start: 0, length: SHORTEST_VIEW_SECONDS };
    this.rest();
  }

  draw() {
    const { context, width, height } = this.#prepare();
    const colours = coloursOf(this.#canvas);
    const heard = this.#take ? this.#heardSeconds() : 0;
    const count = Math.max(1, Math.floor(width / BAR_PITCH));
    const secondsPerBar = this.#view.length / count;
    const first = Math.floor(this.#view.start / secondsPerBar); // bars stay whole while the window passes
    for (let bar = 0; bar < count; bar += 1) {
      const from = (first + bar) * secondsPerBar;
      const level = this.#levelBetween(from, from + secondsPerBar);
      context.fillStyle = colours[barState(level, from < heard)];
      drawBar(context, bar * BAR_PITCH, height, level ?? 0);
    }
  }

  #tick() {
    if (!this.#running) return;
    const step = calm.matches ? 1 : VIEW_EASE;
    const target = this.#target();
    this.#view = {
      start: this.#view.start + (target.start - this.#view.start) * step,
      length: this.#view.length + (target.length - this.#view.length) * step,
    };
    this.draw();
    this.#timer = calm.matches
      ? setTimeout(() => this.#tick(), CALM_INTERVAL_MS)
      : requestAnimationFrame(() => this.#tick());
  }

  #target() {
    const { complete, seconds } = this.#take;
    const wanted = complete ? seconds : seconds * 1.15;
    const length = Math.min(WINDOW_SECONDS, Math.max(SHORTEST_VIEW_SECONDS, wanted));
    const start = Math.max(0, Math.min(this.#heardSeconds() - length * PLAYHEAD, Math.max(0, wanted - length)));
    return { start, length };
  }

  /** The mean of the peaks in a stretch of time, or null where nothing has arrived: the loudest would make a long take a wall. */
  #levelBetween(from, to) {
    if (!this.#take || from >= this.#take.seconds) return null;
    const { peaks, secondsPerPeak } = this.#take;
    const first = Math.floor(from / secondsPerPeak);
    const last = Math.min(peaks.length, Math.max(first + 1, Math.floor(to / secondsPerPeak)));
    let sum = 0;
    for (let i = first; i < last; i += 1) sum += peaks[i];
    return last > first ? sum / (last - first) : 0;
  }

  #prepare() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const density = devicePixelRatio || 1;
    const pixelWidth = Math.round(width * density);
    const pixelHeight = Math.round(height * density);
    if (this.#canvas.width !== pixelWidth) this.#canvas.width = pixelWidth;
    if (this.#canvas.height !== pixelHeight) this.#canvas.height = pixelHeight;
    const context = this.#canvas.getContext('2d');
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    return { context, width, height };
  }
}

function barState(level, wasHeard) {
  if (level === null) return 'empty';
  return wasHeard ? 'heard' : 'waiting';
}

function coloursOf(canvas) {
  const style = getComputedStyle(canvas);
  return {
    heard: style.getPropertyValue('--wave-heard'),
    waiting: style.getPropertyValue('--wave-waiting'),
    empty: style.getPropertyValue('--wave-empty'),
  };
}

function drawBar(context, x, height, level) {
  const tall = Math.max(BAR_WIDTH, Math.min(1, level * 1.25) ** 0.75 * (height - 4));
  context.beginPath();
  context.roundRect(x, (height - tall) / 2, BAR_WIDTH, tall, BAR_WIDTH / 2);
  context.fill();
}
