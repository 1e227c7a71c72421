// Plays a take while it is still arriving.
//
// Scheduled buffer sources rather than an AudioWorklet: a worklet exists only on https or localhost, and this page is
// also opened as http://machine:8000. The audio context runs at the rate of the take, so neighbouring buffers join
// sample to sample.

import { toFloats } from './take.js';

const USUAL_SAMPLE_RATE = 24000;
const START_LEAD_SECONDS = 0.03;
const GAP_LEAD_SECONDS = 0.15;
const AHEAD_SECONDS = 20;
const FADE_SECONDS = 0.02;
const WAKE_LIMIT_MS = 1000;

export class Player {
  #context = null;
  #gain = null;
  #take = null;
  #sources = new Set();
  #next = 0;
  #endsAt = 0;
  #scheduledSamples = 0;
  #heard = 0;
  #on = {};

  gaps = 0;

  /** Call this inside the click, so that the browser lets the page sound. */
  async wake(sampleRate = this.#context?.sampleRate ?? USUAL_SAMPLE_RATE) {
    if (this.#context?.sampleRate !== sampleRate) this.#replaceContext(sampleRate);
    await Promise.race([this.#context.resume(), afterMs(WAKE_LIMIT_MS)]);
  }

  /** Start playing a take. `on` may hold start(performanceTime), progress() and end(). */
  play(take, on = {}) {
    this.stop();
    this.#take = take;
    this.#on = on;
    this.#next = 0;
    this.#endsAt = 0;
    this.#scheduledSamples = 0;
    this.#heard = 0;
    this.gaps = 0;
    this.#openGain();
    this.more();
  }

  /** The take has grown, or is complete: schedule what is new. */
  more() {
    if (!this.#take) return;
    while (this.#next < this.#take.pieces.length && this.#aheadSeconds() < AHEAD_SECONDS) {
      this.#schedule(toFloats(this.#take.pieces[this.#next]));
      this.#next += 1;
    }
    this.#endIfDone();
  }

  stop() {
    if (!this.#take) return;
    this.#heard = this.heardSeconds;
    this.#take = null;
    this.#fadeOut();
  }

  get playing() {
    return this.#take !== null;
  }

  get scheduledSeconds() {
    return this.#take ? this.#scheduledSamples / this.#take.sampleRate : 0;
  }

  /** How much of the take has sounded. It never runs backwards, also when the sound pauses to wait for more. */
  get heardSeconds() {
    if (this.#take) this.#heard = Math.max(this.#heard, this.scheduledSeconds - this.#aheadSeconds());
    return this.#heard;
  }

  #replaceContext(sampleRate) {
    this.stop();
    this.#context?.close();
    this.#context = new AudioContext({ sampleRate, latencyHint: 'interactive' });
  }

  #openGain() {
    this.#gain = this.#context.createGain();
    this.#gain.connect(this.#context.destination);
  }

  #schedule(floats) {
    const buffer = this.#context.createBuffer(1, floats.length, this.#take.sampleRate);
    buffer.copyToChannel(floats, 0);
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.#gain);
    const startsAt = this.#nextStart();
    source.start(startsAt);
    this.#sources.add(source);
    source.onended = () => this.#sourceEnded(source);
    if (this.#scheduledSamples === 0) this.#on.start?.(this.#soundsAt(startsAt));
    this.#scheduledSamples += floats.length;
    this.#endsAt = startsAt + buffer.duration;
    this.#on.progress?.();
  }

  #nextStart() {
    const now = this.#context.currentTime;
    if (this.#endsAt > now) return this.#endsAt;
    const late = this.#scheduledSamples > 0;
    if (late) this.gaps += 1;
    return onSample(now + (late ? GAP_LEAD_SECONDS : START_LEAD_SECONDS), this.#context.sampleRate);
  }

  /** When, on the performance clock, a moment of the audio clock leaves the loudspeaker. */
  #soundsAt(moment) {
    const latency = this.#context.outputLatency || this.#context.baseLatency || 0;
    return performance.now() + (moment - this.#context.currentTime + latency) * 1000;
  }

  #aheadSeconds() {
    return Math.max(0, this.#endsAt - this.#context.currentTime);
  }

  #sourceEnded(source) {
    source.disconnect();
    if (this.#sources.delete(source)) this.more();
  }

  #endIfDone() {
    const { complete, pieces, seconds } = this.#take;
    if (!complete || this.#next < pieces.length || this.#sources.size) return;
    this.#take = null;
    this.#heard = seconds;
    this.#on.end?.();
  }

  #fadeOut() {
    const { currentTime } = this.#context;
    const silentAt = currentTime + FADE_SECONDS;
    this.#gain.gain.setValueAtTime(1, currentTime);
    this.#gain.gain.linearRampToValueAtTime(0, silentAt);
    for (const source of this.#sources) source.stop(silentAt);
    this.#sources.clear();
  }
}

function onSample(seconds, rate) {
  return Math.ceil(seconds * rate) / rate;
}

function afterMs(delay) {
  return new Promise((resolve) => {
    setTimeout(resolve, delay);
  });
}
