// Several tracks on one clock: they start, stop and seek together, and each can be muted or heard alone.

const RAMP_SECONDS = 0.01;
const LEAD_SECONDS = 0.02;

/** @typedef {{name: string, buffer: AudioBuffer, gain: GainNode, muted: boolean, solo: boolean}} MixerTrack */

/** @implements {import('../ui/transport.js').Playable} */
export class Mixer {
  #context;
  #tracks = /** @type {MixerTrack[]} */ ([]);
  #sources = /** @type {AudioBufferSourceNode[]} */ ([]);
  #position = 0;
  #startedAt = 0;
  #playing = false;

  constructor() {
    this.#context = new AudioContext();
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

  /** Add a track. @param {string} name @param {Blob} sound a file that the browser can decode @returns {Promise<AudioBuffer>} */
  async add(name, sound, { muted = false } = {}) {
    const buffer = await this.#context.decodeAudioData(await sound.arrayBuffer());
    const gain = this.#context.createGain();
    gain.connect(this.#context.destination);
    this.#tracks.push({ name, buffer, gain, muted, solo: false });
    this.#balance();
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
    await this.#context.resume();
    if (this.position >= this.duration) this.#position = 0;
    this.#start();
  }

  pause() {
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
    this.#stop();
    this.#context.close();
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
