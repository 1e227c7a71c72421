// The power spectrum of a stretch of samples: a radix-2 fast Fourier transform (Cooley and Tukey, 1965) under a Hann window.

export const WINDOW = 2048;

const hann = Float32Array.from({ length: WINDOW }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / WINDOW));
const SCALE = (2 / WINDOW) * 2; // a full-scale sine has a power of 1: the mean of the window is a half
const order = bitReversed();
const cosines = Float32Array.from({ length: WINDOW / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / WINDOW));
const sines = Float32Array.from({ length: WINDOW / 2 }, (_, i) => -Math.sin((2 * Math.PI * i) / WINDOW));
const real = new Float32Array(WINDOW);
const imaginary = new Float32Array(WINDOW);

/**
 * The power of each frequency up to half the sample rate. Samples before and after the sound are silence.
 * @param {Float32Array} samples @param {number} start @returns {Float32Array} of WINDOW / 2 + 1 bins
 */
export function powerSpectrum(samples, start) {
  for (let i = 0; i < WINDOW; i += 1) {
    real[order[i]] = (samples[start + i] ?? 0) * hann[i];
    imaginary[order[i]] = 0;
  }
  transform();
  return Float32Array.from({ length: WINDOW / 2 + 1 }, (_, bin) => (real[bin] ** 2 + imaginary[bin] ** 2) * SCALE ** 2);
}

function transform() {
  for (let size = 2; size <= WINDOW; size *= 2) {
    const half = size / 2;
    const step = WINDOW / size;
    for (let block = 0; block < WINDOW; block += size) {
      for (let i = 0; i < half; i += 1) butterfly(block + i, block + i + half, i * step);
    }
  }
}

function butterfly(one, other, turn) {
  const re = real[other] * cosines[turn] - imaginary[other] * sines[turn];
  const im = real[other] * sines[turn] + imaginary[other] * cosines[turn];
  real[other] = real[one] - re;
  imaginary[other] = imaginary[one] - im;
  real[one] += re;
  imaginary[one] += im;
}

function bitReversed() {
  const bits = Math.log2(WINDOW);
  return Uint16Array.from({ length: WINDOW }, (_, i) => {
    let reversed = 0;
    for (let bit = 0; bit < bits; bit += 1) reversed |= ((i >> bit) & 1) << (bits - 1 - bit);
    return reversed;
  });
}
