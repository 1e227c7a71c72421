// Speech with the npm package `openai`: a text, and a file. The format follows from the file's name.
//
// node speech.mjs "Hello there." speech.mp3
import { writeFile } from 'node:fs/promises';
import { extname } from 'node:path';
import OpenAI from 'openai';

const [text, path] = process.argv.slice(2);
const answer = await new OpenAI().audio.speech.create({
  model: 'gpt-4o-mini-tts',
  voice: 'alloy',
  input: text,
  response_format: extname(path).slice(1),
});
await writeFile(path, Buffer.from(await answer.arrayBuffer()));
