// Recording from the microphone. Browsers offer it only on https or localhost, and only if the person agrees.

const LONGEST_RECORDING_MS = 10 * 60 * 1000;
const KINDS = [
  ['audio/webm;codecs=opus', 'webm'],
  ['audio/mp4', 'm4a'],
  ['audio/ogg;codecs=opus', 'ogg'],
];

export async function canRecord() {
  if (!window.MediaRecorder || !navigator.mediaDevices?.getUserMedia || !chosenKind()) return false;
  try {
    const { state } = await navigator.permissions.query({ name: 'microphone' });
    return state !== 'denied';
  } catch {
    return true;
  }
}

function chosenKind() {
  return KINDS.find(([type]) => MediaRecorder.isTypeSupported(type));
}

/** Start recording. `done` resolves with a File when stop() is called or the longest recording is reached. */
export async function startRecording() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const [type, ending] = chosenKind();
  const recorder = new MediaRecorder(stream, { mimeType: type });
  const parts = [];
  recorder.addEventListener('dataavailable', (event) => parts.push(event.data));
  const done = new Promise((resolve) => {
    recorder.addEventListener('stop', () => resolve(new File(parts, `recording.${ending}`, { type })));
  });
  recorder.start();
  const stop = () => {
    if (recorder.state !== 'inactive') recorder.stop();
  };
  const limit = setTimeout(stop, LONGEST_RECORDING_MS);
  done.then(() => {
    clearTimeout(limit);
    for (const track of stream.getTracks()) track.stop();
  });
  return { done, stop };
}
