// Draws a take as bars: what has sounded in the accent colour, what has arrived and waits in a quiet one.

const BAR_WIDTH = 3;
const BAR_PITCH = 5;
const SHORTEST_VIEW_SECONDS = 4;
const VIEW_EASE = 0.12;
const CALM_INTERVAL_MS = 400;

const calm = matchMedia('(prefers-reduced-motion: reduce)');
const dark = matchMedia('(prefers-color-scheme: dark)');

export class Waveform {
  #canvas;
  #take = null;
  #heardSeconds = () => 0;
  #viewSeconds = SHORTEST_VIEW_SECONDS;
  #timer = 0;
  #running = false;

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.draw()).observe(canvas);
    dark.addEventListener('change', () => this.draw());
  }

  /** Follow a take until rest() is called. */
  follow(take, heardSeconds) {
    this.rest();
    this.#take = take;
    this.#heardSeconds = heardSeconds;
    this.#viewSeconds = Math.max(SHORTEST_VIEW_SECONDS, take.seconds);
    this.#running = true;
    this.#tick();
  }

  rest() {
    this.#running = false;
    cancelAnimationFrame(this.#timer);
    clearTimeout(this.#timer);
    if (this.#take) this.#viewSeconds = this.#targetView();
    this.draw();
  }

  clear() {
    this.#take = null;
    this.rest();
  }

  draw() {
    const { context, width, height } = this.#prepare();
    const colours = coloursOf(this.#canvas);
    const heard = this.#take ? this.#heardSeconds() : 0;
    const count = Math.max(1, Math.floor(width / BAR_PITCH));
    const secondsPerBar = this.#viewSeconds / count;
    for (let bar = 0; bar < count; bar += 1) {
      const from = bar * secondsPerBar;
      const level = this.#levelBetween(from, from + secondsPerBar);
      context.fillStyle = colours[barState(level, from < heard)];
      drawBar(context, bar * BAR_PITCH, height, level ?? 0);
    }
  }

  #tick() {
    if (!this.#running) return;
    const step = calm.matches ? 1 : VIEW_EASE;
    this.#viewSeconds += (this.#targetView() - this.#viewSeconds) * step;
    this.draw();
    this.#timer = calm.matches
      ? setTimeout(() => this.#tick(), CALM_INTERVAL_MS)
      : requestAnimationFrame(() => this.#tick());
  }

  #targetView() {
    const { complete, seconds } = this.#take;
    return complete && seconds > 0 ? seconds : Math.max(SHORTEST_VIEW_SECONDS, seconds * 1.15);
  }

  /** The loudest peak in a stretch of time, or null where nothing has arrived. */
  #levelBetween(from, to) {
    if (!this.#take || from >= this.#take.seconds) return null;
    const { peaks, secondsPerPeak } = this.#take;
    const first = Math.floor(from / secondsPerPeak);
    const last = Math.max(first + 1, Math.floor(to / secondsPerPeak));
    return Math.max(0, ...peaks.slice(first, last));
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
  const tall = Math.max(BAR_WIDTH, level ** 0.75 * (height - 4));
  context.beginPath();
  context.roundRect(x, (height - tall) / 2, BAR_WIDTH, tall, BAR_WIDTH / 2);
  context.fill();
}
