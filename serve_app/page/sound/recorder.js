// Recording from the microphone into a WAV file, with its level and its length while it lasts.

import { whenAborted } from '../ui/one-at-a-time.js';
import { MICROPHONE_RATE, Microphone } from './microphone.js';
import { Take } from './take.js';

const LONGEST_SECONDS = 10 * 60;

/**
 * @typedef {object} Recording
 * @property {Promise<File>} done the file once it ends
 * @property {() => void} stop
 */

/**
 * Starts recording; throws an Error in plain words. It ends by itself after ten minutes. An abort of the signal throws it
 * away, also while the person is asked for the microphone.
 * @param {(level: number, seconds: number) => void} onLevel gets the loudness, 0 to 1, and the length so far
 * @param {AbortSignal} signal
 * @returns {Promise<Recording>}
 */
export async function startRecording(onLevel, signal) {
  const take = new Take(MICROPHONE_RATE);
  const cancelled = whenAborted(signal);
  const opening = Microphone.open((level) => onLevel(level, take.seconds), { cleaned: false });
  opening.then((late) => signal.aborted && late.close(), () => {});
  const microphone = await Promise.race([opening, cancelled]);
  let end = () => {};
  const ended = new Promise((resolve) => {
    end = resolve;
  });
  microphone.deliver((bytes) => {
    take.append(bytes);
    if (take.seconds >= LONGEST_SECONDS) end();
  });
  const finish = async () => {
    try {
      await Promise.race([ended, microphone.lost, cancelled]);
      take.finish();
      return new File([take.toWav()], 'recording.wav', { type: 'audio/wav' });
    } finally {
      microphone.close();
    }
  };
  return { done: finish(), stop: end };
}
