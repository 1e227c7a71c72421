// Several tracks on one clock: they start, stop and seek together, and each can be muted or heard alone.

import { decodedAudio } from './memory-budget.js';

const RAMP_SECONDS = 0.01;
const LEAD_SECONDS = 0.02;
const BYTES_PER_SAMPLE = 4;
const MOST_CHANNELS = 2;

/** @typedef {{name: string, buffer: AudioBuffer, gain: GainNode, muted: boolean, solo: boolean}} MixerTrack */

/** @implements {import('../ui/transport.js').Playable} */
export class Mixer {
  #context;
  #tracks = /** @type {MixerTrack[]} */ ([]);
  #sources = /** @type {AudioBufferSourceNode[]} */ ([]);
  #position = 0;
  #startedAt = 0;
  #playing = false;
  #round = 0;
  #closed = false;
  #budget;
  #bytes = 0;

  /** @param {import('./memory-budget.js').MemoryBudget} budget of which the decoded tracks take their memory */
  constructor(budget = decodedAudio) {
    this.#context = new AudioContext();
    this.#budget = budget;
  }

  get duration() {
    return Math.max(0, ...this.#tracks.map(({ buffer }) => buffer.duration));
  }

  get playing() {
    return this.#playing && this.position < this.duration;
  }

  get position() {
    if (!this.#playing) return this.#position;
    const since = Math.max(0, this.#context.currentTime - this.#startedAt);
    return Math.min(this.duration, this.#position + since);
  }

  /**
   * Add a track. Throws an OverBudgetError if its samples take more memory than is left, and what the browser says of a file
   * that it cannot decode.
   * @param {string} name @param {Blob} sound
   * @param {{seconds: number, muted?: boolean}} options how long it is; whether it is silent at first
   * @returns {Promise<AudioBuffer>}
   */
  async add(name, sound, { seconds, muted = false }) {
    const buffer = await this.#decode(sound, seconds);
    if (this.#closed) return buffer;
    const gain = this.#context.createGain();
    const track = { name, buffer, gain, muted, solo: false };
    this.#tracks.push(track);
    gain.gain.value = this.#heard(track) ? 1 : 0;
    gain.connect(this.#context.destination);
    if (this.#playing) this.seek(this.position);
    return buffer;
  }

  /** @param {string} name @returns {{muted: boolean, solo: boolean, heard: boolean}} */
  stateOf(name) {
    const { muted, solo } = this.#track(name);
    return { muted, solo, heard: this.#heard(this.#track(name)) };
  }

  setMuted(name, muted) {
    this.#track(name).muted = muted;
    this.#balance();
  }

  /** Hear one track alone; the others are silent until none is alone any more. */
  setSolo(name, solo) {
    for (const track of this.#tracks) track.solo = solo && track.name === name;
    this.#balance();
  }

  async play() {
    if (this.#closed) return;
    this.#round += 1;
    const round = this.#round;
    await this.#context.resume().catch(() => {}); // a context that is closed meanwhile does not resume
    if (round !== this.#round) return; // paused or closed meanwhile
    if (this.position >= this.duration) this.#position = 0;
    this.#start();
  }

  pause() {
    this.#round += 1;
    this.#position = this.position;
    this.#stop();
  }

  seek(seconds) {
    const wasPlaying = this.playing;
    this.#stop();
    this.#position = Math.max(0, Math.min(seconds, this.duration));
    if (wasPlaying) this.#start();
  }

  close() {
    this.pause();
    this.#closed = true;
    this.#keep(0);
    this.#context.close();
  }

  /** The browser decodes at the rate of the context; how many channels there are is known afterwards. */
  async #decode(sound, seconds) {
    if (this.#closed) throw new DOMException('The mixer is closed.', 'AbortError');
    const expected = Math.ceil(seconds * this.#context.sampleRate) * MOST_CHANNELS * BYTES_PER_SAMPLE;
    this.#keep(this.#bytes + expected);
    try {
      const buffer = await this.#context.decodeAudioData(await sound.arrayBuffer());
      const taken = buffer.length * buffer.numberOfChannels * BYTES_PER_SAMPLE;
      if (!this.#closed) this.#keep(this.#bytes - expected + taken);
      return buffer;
    } catch (error) {
      if (!this.#closed) this.#keep(this.#bytes - expected);
      throw error;
    }
  }

  /** Have so many bytes of the budget. */
  #keep(bytes) {
    if (bytes > this.#bytes) this.#budget.take(bytes - this.#bytes);
    else this.#budget.give(this.#bytes - bytes);
    this.#bytes = bytes;
  }

  #track(name) {
    return this.#tracks.find((track) => track.name === name);
  }

  #heard({ muted, solo }) {
    return this.#tracks.some((track) => track.solo) ? solo : !muted;
  }

  #balance() {
    for (const track of this.#tracks) {
      track.gain.gain.setTargetAtTime(this.#heard(track) ? 1 : 0, this.#context.currentTime, RAMP_SECONDS);
    }
  }

  /** All sources start at the same moment of the audio clock. */
  #start() {
    this.#stop();
    this.#startedAt = this.#context.currentTime + LEAD_SECONDS;
    for (const { buffer, gain } of this.#tracks) {
      if (this.#position >= buffer.duration) continue;
      const source = this.#context.createBufferSource();
      source.buffer = buffer;
      source.connect(gain);
      source.start(this.#startedAt, this.#position);
      this.#sources.push(source);
    }
    this.#playing = true;
  }

  #stop() {
    for (const source of this.#sources) {
      source.stop();
      source.disconnect();
    }
    this.#sources = [];
    this.#playing = false;
  }
}
