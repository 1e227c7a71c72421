// Live captions with the npm package `openai`: a WAV file of 24 kHz, sent as a microphone would, and its text.
//
// node realtime.mjs recording.wav
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import OpenAI from 'openai';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';

const WAV_HEADER_BYTES = 44;
const CHUNK_BYTES = 4800; // 0.1 s
const openai = new OpenAI();
// The package always asks for wss. Without a TLS proxy in front of Motet, the connection itself has to be a plain one.
const plain = { createConnection: ({ host, port }) => connect({ host, port }) };
const options = openai.baseURL.startsWith('http:') ? plain : {};
const socket = await OpenAIRealtimeWS.create(openai, { intent: 'transcription', options });

async function send() {
  const samples = (await readFile(process.argv[2])).subarray(WAV_HEADER_BYTES);
  for (let start = 0; start < samples.length; start += CHUNK_BYTES) {
    const audio = samples.subarray(start, start + CHUNK_BYTES).toString('base64');
    socket.send({ type: 'input_audio_buffer.append', audio });
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  socket.send({ type: 'input_audio_buffer.commit' });
}

socket.on('session.created', () => {
  const input = {
    format: { type: 'audio/pcm', rate: 24000 },
    transcription: { model: 'gpt-realtime-whisper', language: 'en' },
  };
  socket.send({ type: 'session.update', session: { type: 'transcription', audio: { input } } });
});
socket.on('session.updated', send);
socket.on('conversation.item.input_audio_transcription.delta', (event) => process.stderr.write(event.delta));
socket.on('conversation.item.input_audio_transcription.completed', (event) => {
  console.log(event.transcript);
  socket.close();
});
socket.on('error', (error) => {
  console.error(error.message);
  process.exit(1);
});
