// How long a sound is, without decoding all of it.

/**
 * The seconds of a sound; not a number if the browser cannot tell.
 * @param {Blob} sound
 * @returns {Promise<number>}
 */
export function durationOf(sound) {
  const url = URL.createObjectURL(sound);
  const audio = new Audio();
  return new Promise((resolve) => {
    const tell = () => {
      URL.revokeObjectURL(url);
      resolve(audio.duration);
    };
    audio.addEventListener('loadedmetadata', tell, { once: true });
    audio.addEventListener('error', tell, { once: true });
    audio.preload = 'metadata';
    audio.src = url;
  });
}
