// Recording from the microphone into a WAV file, with its level and its length while it lasts.

import { MICROPHONE_RATE, Microphone } from './microphone.js';
import { Take } from './take.js';

const LONGEST_SECONDS = 10 * 60;

/**
 * @typedef {object} Recording
 * @property {Promise<File | null>} done the file once it ends; null if it was cancelled
 * @property {() => void} stop
 * @property {() => void} cancel
 */

/**
 * Starts recording; throws an Error in plain words. It ends by itself after ten minutes.
 * @param {(level: number, seconds: number) => void} onLevel gets the loudness, 0 to 1, and the length so far
 * @returns {Promise<Recording>}
 */
export async function startRecording(onLevel) {
  const take = new Take(MICROPHONE_RATE);
  const microphone = await Microphone.open((level) => onLevel(level, take.seconds), { cleaned: false });
  let end = () => {};
  const ended = new Promise((resolve) => {
    end = resolve;
  });
  microphone.deliver((bytes) => {
    take.append(bytes);
    if (take.seconds >= LONGEST_SECONDS) end(true);
  });
  const finish = async () => {
    try {
      const kept = await Promise.race([ended, microphone.lost]);
      take.finish();
      return kept ? new File([take.toWav()], 'recording.wav', { type: 'audio/wav' }) : null;
    } finally {
      microphone.close();
    }
  };
  return { done: finish(), stop: () => end(true), cancel: () => end(false) };
}
