// A take: one utterance of 16-bit little-endian mono PCM, collected as it arrives.

import { wavHeader } from './wav.js';

/** @typedef {{text: string, start: number, end: number}} TimedWord a word with its times in seconds */

const BYTES_PER_SAMPLE = 2;
const PIECE_SECONDS = 0.02;
const BUCKET_SECONDS = 0.02;
const FULL_SCALE = 32768;

export class Take {
  /** @param {number} sampleRate Hz */
  constructor(sampleRate) {
    this.sampleRate = sampleRate;
    this.pieces = [];
    this.peaks = [];
    this.samples = 0;
    this.complete = false; // no more will come
    this.whole = false; // and nothing is missing
    this.bucketSize = Math.round(sampleRate * BUCKET_SECONDS);
    this.carry = new Uint8Array(0);
  }

  get seconds() {
    return this.samples / this.sampleRate;
  }

  get secondsPerPeak() {
    return this.bucketSize / this.sampleRate;
  }

  /** Add bytes as the network cut them: a sample may be split between two calls. */
  append(bytes) {
    const joined = join(this.carry, bytes);
    const whole = joined.length - (joined.length % BYTES_PER_SAMPLE);
    if (whole < this.sampleRate * PIECE_SECONDS * BYTES_PER_SAMPLE) {
      this.carry = joined;
      return;
    }
    this.#keep(joined.subarray(0, whole));
    this.carry = joined.slice(whole);
  }

  /** No more bytes will come; `whole`: because these are all. Half a sample at the end is dropped. */
  finish({ whole = true } = {}) {
    const left = this.carry.length - (this.carry.length % BYTES_PER_SAMPLE);
    if (left) this.#keep(this.carry.subarray(0, left));
    this.carry = new Uint8Array(0);
    this.complete = true;
    this.whole = whole;
  }

  /** The take as a WAV file. @returns {Blob} */
  toWav() {
    const header = wavHeader(this.samples * BYTES_PER_SAMPLE, this.sampleRate);
    return new Blob([header, ...this.pieces], { type: 'audio/wav' });
  }

  /** The samples alone. @returns {Blob} */
  toPcm() {
    return new Blob(this.pieces);
  }

  /** A complete take from samples that were kept. @param {Blob} pcm @param {number} sampleRate @param {boolean} whole */
  static async from(pcm, sampleRate, whole) {
    const take = new Take(sampleRate);
    take.append(new Uint8Array(await pcm.arrayBuffer()));
    take.finish({ whole });
    return take;
  }

  #keep(piece) {
    this.#measure(toFloats(piece));
    this.pieces.push(piece);
  }

  #measure(floats) {
    for (const value of floats) {
      const bucket = Math.floor(this.samples / this.bucketSize);
      this.peaks[bucket] = Math.max(this.peaks[bucket] ?? 0, Math.abs(value));
      this.samples += 1;
    }
  }
}

function join(first, second) {
  if (!first.length) return second;
  const joined = new Uint8Array(first.length + second.length);
  joined.set(first);
  joined.set(second, first.length);
  return joined;
}

/** 16-bit samples as floats, -1 to 1. @param {Uint8Array} piece */
export function toFloats(piece) {
  const view = new DataView(piece.buffer, piece.byteOffset, piece.byteLength);
  const floats = new Float32Array(piece.byteLength / BYTES_PER_SAMPLE);
  for (let i = 0; i < floats.length; i += 1) {
    floats[i] = view.getInt16(i * BYTES_PER_SAMPLE, true) / FULL_SCALE;
  }
  return floats;
}

/** Floats as 16-bit samples. @param {Float32Array} floats @returns {Uint8Array} */
export function toBytes(floats) {
  const bytes = new Uint8Array(floats.length * BYTES_PER_SAMPLE);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < floats.length; i += 1) {
    const limited = Math.max(-1, Math.min(1, floats[i]));
    view.setInt16(i * BYTES_PER_SAMPLE, Math.round(limited * (FULL_SCALE - 1)), true);
  }
  return bytes;
}
