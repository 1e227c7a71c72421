// Runs beside the page: takes the microphone's samples and hands out 16-bit PCM, mono, at 24 kHz, with its loudness.

const TARGET_RATE = 24000;
const PIECE_SAMPLES = 960; // 40 ms
const LARGEST = 32767;

class MicrophoneWorklet extends AudioWorkletProcessor {
  #samples = new Int16Array(PIECE_SAMPLES);
  #filled = 0;
  #energy = 0;
  // Each output sample is the mean of the input that it covers, `sampleRate / TARGET_RATE` input samples.
  #span = sampleRate / TARGET_RATE;
  #needed = sampleRate / TARGET_RATE;
  #sum = 0;

  process([channels]) {
    const count = channels.length;
    const length = channels[0]?.length ?? 0;
    for (let i = 0; i < length; i += 1) {
      let value = 0;
      for (const channel of channels) value += channel[i] / count;
      this.#take(value);
    }
    return true;
  }

  #take(value) {
    let left = 1;
    while (this.#needed <= left) {
      this.#put((this.#sum + value * this.#needed) / this.#span);
      left -= this.#needed;
      this.#needed = this.#span;
      this.#sum = 0;
    }
    this.#sum += value * left;
    this.#needed -= left;
  }

  #put(value) {
    const limited = Math.max(-1, Math.min(1, value));
    this.#samples[this.#filled] = Math.round(limited * LARGEST);
    this.#energy += limited * limited;
    this.#filled += 1;
    if (this.#filled === PIECE_SAMPLES) this.#send();
  }

  #send() {
    const { buffer } = this.#samples;
    this.port.postMessage({ sound: buffer, level: Math.sqrt(this.#energy / PIECE_SAMPLES) }, [buffer]);
    this.#samples = new Int16Array(PIECE_SAMPLES);
    this.#filled = 0;
    this.#energy = 0;
  }
}

registerProcessor('microphone', MicrophoneWorklet);
