// The microphone as a stream: 16-bit PCM, mono, 24 kHz, in pieces of 40 ms. Browsers give it only to pages at https or on
// localhost, and only if the person agrees.

export const MICROPHONE_RATE = 24000;
const FOR_TALKING = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };
const AS_IT_IS = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
const QUIETEST_DB = -60;
const WORDS = {
  NotAllowedError: 'This page may not use the microphone. Allow it in the browser, next to the address, and start again.',
  NotFoundError: 'No microphone was found. Connect one and start again.',
  NotReadableError: 'The microphone does not answer. Another program may be using it.',
};
const INSECURE = 'Browsers give the microphone only to pages at https:// or at localhost. Open this page there.';

export class Microphone {
  #stream;
  #context;
  #deliver = () => {};
  #closed = false;

  /**
   * Asks for the microphone; throws an Error in plain words.
   * @param {(level: number) => void} onLevel gets the loudness, 0 to 1, 25 times a second
   * @param {{cleaned?: boolean}} options `cleaned`: whether the browser takes echo and noise away
   */
  static async open(onLevel, { cleaned = true } = {}) {
    if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) throw new Error(INSECURE);
    const stream = await navigator.mediaDevices.getUserMedia({ audio: cleaned ? FOR_TALKING : AS_IT_IS }).catch((error) => {
      throw new Error(WORDS[error.name] ?? `The microphone cannot be used: ${error.message}`);
    });
    const microphone = new Microphone(stream);
    try {
      await microphone.#listen(onLevel);
    } catch (error) {
      microphone.close();
      throw error;
    }
    return microphone;
  }

  constructor(stream) {
    this.#stream = stream;
    /** Settles when the microphone is unplugged or forbidden. */
    this.lost = new Promise((_, reject) => {
      stream.getAudioTracks()[0].addEventListener('ended', () => reject(new Error('The microphone was disconnected.')));
    });
    this.lost.catch(() => {});
  }

  /** From now on `deliver` gets each piece, as bytes. */
  deliver(deliver) {
    this.#deliver = deliver;
  }

  close() {
    this.#closed = true;
    this.#deliver = () => {};
    for (const track of this.#stream.getTracks()) track.stop();
    if (this.#context?.state !== 'closed') this.#context?.close();
  }

  async #listen(onLevel) {
    const source = this.#source();
    await this.#context.audioWorklet.addModule('/page/sound/microphone-worklet.js');
    const worklet = new AudioWorkletNode(this.#context, 'microphone');
    worklet.port.onmessage = ({ data: { sound, level } }) => {
      if (this.#closed) return; // a piece was under way
      onLevel(shownLevel(level));
      this.#deliver(new Uint8Array(sound));
    };
    source.connect(worklet).connect(this.#context.destination); // its output is silence; without a destination nothing runs
    await this.#context.resume();
  }

  /** Firefox does not convert between the rates of a microphone and a context: there the worklet does. */
  #source() {
    try {
      this.#context = new AudioContext({ sampleRate: MICROPHONE_RATE });
      return this.#context.createMediaStreamSource(this.#stream);
    } catch {
      this.#context?.close();
      this.#context = new AudioContext();
      return this.#context.createMediaStreamSource(this.#stream);
    }
  }
}

function shownLevel(level) {
  const decibels = 20 * Math.log10(Math.max(level, 1e-9));
  return Math.max(0, Math.min(1, 1 - decibels / QUIETEST_DB));
}
