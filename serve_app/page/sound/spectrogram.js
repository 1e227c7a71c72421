// Spectrograms: the energy of a sound over time and frequency, drawn on a canvas.

import { powerSpectrum, WINDOW } from './fourier.js';

const QUIETEST_DB = -75;
const LOUDEST_DB = -8;
const HIGHEST_HZ = 12000;
const LOWEST_HZ = 60;
const COLUMNS = 720;
const ROWS = 120;

/**
 * Draws a spectrogram; its frequencies are logarithmic, as hearing is.
 * @param {HTMLCanvasElement} canvas @param {AudioBuffer} buffer
 */
export function drawSpectrogram(canvas, buffer) {
  canvas.width = COLUMNS;
  canvas.height = ROWS;
  const context = canvas.getContext('2d');
  const image = context.createImageData(COLUMNS, ROWS);
  const colours = coloursOf(canvas);
  const samples = buffer.getChannelData(0);
  const bins = binsOfRows(buffer.sampleRate);
  for (let column = 0; column < COLUMNS; column += 1) {
    const middle = Math.floor(((column + 0.5) / COLUMNS) * samples.length);
    const power = powerSpectrum(samples, middle - WINDOW / 2);
    for (let row = 0; row < ROWS; row += 1) {
      const colour = colours[shade(loudest(power, bins[row], bins[row + 1]))];
      image.data.set(colour, ((ROWS - 1 - row) * COLUMNS + column) * 4);
    }
  }
  context.putImageData(image, 0, 0);
}

/** The first frequency bin of each row, and the end of the last one. */
function binsOfRows(sampleRate) {
  const highest = Math.min(HIGHEST_HZ, sampleRate / 2);
  return Array.from({ length: ROWS + 1 }, (_, row) => {
    const hz = LOWEST_HZ * (highest / LOWEST_HZ) ** (row / ROWS);
    return Math.round((hz / sampleRate) * WINDOW);
  });
}

function loudest(power, from, to) {
  let most = power[from];
  for (let bin = from + 1; bin < to; bin += 1) most = Math.max(most, power[bin]);
  return most;
}

function shade(power) {
  const decibels = 10 * Math.log10(power + 1e-12);
  const part = (decibels - QUIETEST_DB) / (LOUDEST_DB - QUIETEST_DB);
  return Math.round(255 * Math.max(0, Math.min(1, part)));
}

/** 256 colours between those of the page. */
function coloursOf(canvas) {
  const style = getComputedStyle(canvas);
  const stops = ['--heat-0', '--heat-1', '--heat-2', '--heat-3'].map((name) => parsed(style.getPropertyValue(name)));
  return Array.from({ length: 256 }, (_, level) => {
    const at = (level / 255) * (stops.length - 1);
    const low = Math.min(stops.length - 2, Math.floor(at));
    return [...stops[low].map((value, i) => value + (stops[low + 1][i] - value) * (at - low)), 255];
  });
}

function parsed(hex) {
  const digits = hex.trim().slice(1);
  return [0, 2, 4].map((at) => Number.parseInt(digits.slice(at, at + 2), 16));
}
