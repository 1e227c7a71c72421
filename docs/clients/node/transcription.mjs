// Speech recognition with the npm package `openai`: a recording in any format, its text at once and as events.
//
// node transcription.mjs recording.wav
import { createReadStream } from 'node:fs';
import OpenAI from 'openai';

const openai = new OpenAI();
const request = { model: 'gpt-4o-mini-transcribe', language: 'en' };
const whole = await openai.audio.transcriptions.create({ ...request, file: createReadStream(process.argv[2]) });
console.log(whole.text);

const events = await openai.audio.transcriptions.create({
  ...request,
  file: createReadStream(process.argv[2]),
  stream: true,
});
for await (const event of events) {
  if (event.type === 'transcript.text.done') console.log(event.text);
}
