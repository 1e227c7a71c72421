// WAV files: a header for samples made here, and lengths for files that were streamed without them.

const HEADER_BYTES = 44;
const LONGEST_HEADER_BYTES = 4096;
const CHUNK_HEADER_BYTES = 8;

/** The header of a 16-bit mono WAV file. */
export function wavHeader(dataBytes, sampleRate) {
  const view = new DataView(new ArrayBuffer(HEADER_BYTES));
  writeTag(view, 0, 'RIFF');
  view.setUint32(4, HEADER_BYTES - 8 + dataBytes, true);
  writeTag(view, 8, 'WAVE');
  writeTag(view, 12, 'fmt ');
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // plain PCM
  view.setUint16(22, 1, true); // one channel
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, sampleRate * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  writeTag(view, 36, 'data');
  view.setUint32(40, dataBytes, true);
  return view.buffer;
}

/** A streamed WAV cannot know its length when its header is sent: write the real one in. */
export async function withTrueLengths(blob) {
  const head = await blob.slice(0, LONGEST_HEADER_BYTES).arrayBuffer();
  const view = new DataView(head);
  const data = findData(view);
  const present = blob.size - data - CHUNK_HEADER_BYTES;
  if (data < 0 || !isOpenEnded(view.getUint32(data + 4, true), present)) return blob;
  view.setUint32(4, blob.size - CHUNK_HEADER_BYTES, true);
  view.setUint32(data + 4, present, true);
  return new Blob([head, blob.slice(LONGEST_HEADER_BYTES)], { type: 'audio/wav' });
}

function isOpenEnded(stated, present) {
  return stated === 0 || stated > present;
}

function findData(view) {
  if (view.byteLength < 12 || readTag(view, 0) !== 'RIFF' || readTag(view, 8) !== 'WAVE') return -1;
  let at = 12;
  while (at + CHUNK_HEADER_BYTES <= view.byteLength) {
    if (readTag(view, at) === 'data') return at;
    const size = view.getUint32(at + 4, true);
    at += CHUNK_HEADER_BYTES + size + (size % 2);
  }
  return -1;
}

function writeTag(view, at, tag) {
  for (let i = 0; i < tag.length; i += 1) view.setUint8(at + i, tag.charCodeAt(i));
}

function readTag(view, at) {
  return String.fromCharCode(...[0, 1, 2, 3].map((i) => view.getUint8(at + i)));
}
