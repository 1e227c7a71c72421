// Where speech is heard and seen: it plays while it arrives, and can be played again and searched afterwards.

import { Player } from '../sound/player.js';
import { Waveform } from '../sound/waveform.js';
import { byId, publish, seconds, withdraw } from '../ui/elements.js';
import { MediaPlayable, Transport } from '../ui/transport.js';
import { SpokenWords } from './spoken-words.js';

/** @typedef {import('../sound/take.js').Take} Take */

const NOTHING = '–';

const firstFact = byId('speak-first');
const secondsFact = byId('speak-seconds');

const player = new Player();
const waveform = new Waveform(byId('speak-wave'));
const transport = new Transport(byId('speak-transport'), (position) => seek(position));

export const words = new SpokenWords(byId('speak-words'));

let take = /** @type {Take | null} */ (null);
let position = 0;
let url = '';

/** Call this inside the click, so that the browser lets the page sound. @param {number} [sampleRate] */
export function wake(sampleRate) {
  return player.wake(sampleRate);
}

export function clearStage() {
  player.stop();
  transport.use(null);
  take = null;
  waveform.clear();
  words.clear();
  firstFact.textContent = NOTHING;
  secondsFact.textContent = NOTHING;
  publish('playedSeconds', 0);
  withdraw('firstSoundMs');
}

/**
 * Play a take while it arrives.
 * @param {Take} arriving
 * @param {{clickedAt: number, onSound: () => void, onEnd: () => void}} on `clickedAt` is on the performance clock
 */
export function playArriving(arriving, { clickedAt, onSound, onEnd }) {
  take = arriving;
  player.play(take, {
    start: (soundsAt) => {
      showFirstSound(soundsAt - clickedAt);
      onSound();
    },
    progress: showProgress,
    end: onEnd,
  });
  waveform.follow(take, () => player.heardSeconds);
  words.follow(() => player.heardSeconds);
}

/** The take has grown, or is complete. */
export function more() {
  player.more();
}

/** How often the sound paused because more of it had not arrived. */
export function gaps() {
  return player.gaps;
}

/** Stop what plays, and offer the take to be played again. */
export function rest() {
  player.stop();
  words.rest();
  if (take?.complete && take.samples) showWhole(take);
  else waveform.rest();
}

/** Show a whole take, to be played on demand. @param {Take} whole */
export function showWhole(whole) {
  take = whole;
  position = 0;
  URL.revokeObjectURL(url);
  url = URL.createObjectURL(take.toWav());
  secondsFact.textContent = seconds(take.seconds);
  transport.use(new MediaPlayable(url, { seconds: take.seconds }));
  waveform.show(take, () => position || (transport.playing ? 0 : take.seconds));
}

export function pauseStage() {
  transport.pause();
}

function seek(at) {
  if (at === position && !transport.playing) return;
  position = at;
  words.show(at || -1);
  waveform.draw();
}

function showFirstSound(delayMs) {
  const rounded = Math.round(delayMs);
  firstFact.textContent = `${rounded} ms`;
  publish('firstSoundMs', rounded);
}

function showProgress() {
  secondsFact.textContent = seconds(take.seconds);
  publish('playedSeconds', player.scheduledSeconds.toFixed(3));
}
