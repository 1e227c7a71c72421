// How long a sound is, without decoding all of it.

const FAR_SECONDS = 1e7;

/**
 * The seconds of a sound; not a number if the browser cannot tell.
 * @param {Blob} sound
 * @returns {Promise<number>}
 */
export async function durationOf(sound) {
  const url = URL.createObjectURL(sound);
  try {
    return await durationAt(url);
  } finally {
    URL.revokeObjectURL(url);
  }
}

/**
 * The seconds of the sound at an address; not a number if the browser cannot tell. A sound that was streamed states no
 * length: the browser finds its end when it is sent far beyond it.
 * @param {string} url
 * @returns {Promise<number>}
 */
export function durationAt(url) {
  const audio = new Audio();
  return new Promise((resolve) => {
    const tell = () => resolve(Number.isFinite(audio.duration) ? audio.duration : NaN);
    audio.addEventListener('error', () => resolve(NaN), { once: true });
    audio.addEventListener('loadedmetadata', () => {
      if (audio.duration !== Infinity) {
        tell();
        return;
      }
      audio.addEventListener('seeked', tell, { once: true });
      audio.currentTime = FAR_SECONDS;
    }, { once: true });
    audio.preload = 'metadata';
    audio.src = url;
  });
}
