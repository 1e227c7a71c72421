"""A minimal server for comparison: FastAPI and uvicorn in one process.

It has the engine, settings, route and encoder of the service, and no queue, batches, placements or Ray.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from deployments.audio.encode import open_encoder
from deployments.audio.formats import FORMATS, AudioFormat
from deployments.engines.protocols import SpeechEngine, SpeechRequest
from deployments.replica.base import ReplicaSettings, load_engine
from deployments.tasks.in_process_speech import speak_here
from deployments.tasks.voice_choice import choose_voice
from deployments.text.segmentation import cut_into_pieces
from serve_app.bench.running_service import RunningProgram, end_with_parent, running_program
from serve_app.config import AppConfig
from serve_app.replica_settings import replica_settings

READY = "ready on port "
KEEP_ALIVE_S = 60
"""Long enough that a connection stays open during a slow round."""


class BenchSpeechBody(BaseModel):
    """The fields that the benchmark sends."""

    model: str
    input: str
    voice: str | None = None
    response_format: AudioFormat = "mp3"


def first_replica_of(name: str, config: AppConfig) -> ReplicaSettings:
    """The settings of a model's first replica in the service."""
    model = config.models[name]
    return replica_settings(name, model, model.placements[0])


def build(config: AppConfig, engine: SpeechEngine[Any], thread: ThreadPoolExecutor) -> FastAPI:
    """The application around an engine that lives on `thread`."""
    api = FastAPI()

    @api.post("/v1/audio/speech")
    async def speech(body: BenchSpeechBody) -> StreamingResponse:
        voice = choose_voice(body.voice, engine.traits, {})
        request = SpeechRequest(cut_into_pieces(body.input, config.speech.pieces), voice)
        media_type = FORMATS[body.response_format].media_type
        return StreamingResponse(_encoded(request, body.response_format, engine, thread), media_type=media_type)

    return api


async def _encoded(
    request: SpeechRequest, audio_format: AudioFormat, engine: SpeechEngine[Any], thread: ThreadPoolExecutor
) -> AsyncGenerator[bytes]:
    parts = _parts(request, audio_format, engine)
    while (data := await asyncio.get_running_loop().run_in_executor(thread, next, parts, None)) is not None:
        yield data


def _parts(request: SpeechRequest, audio_format: AudioFormat, engine: SpeechEngine[Any]) -> Iterator[bytes]:
    encoder = open_encoder(audio_format, engine.traits.sample_rate)
    for chunk in speak_here(request, engine):
        yield encoder.encode(chunk.samples)
    yield encoder.finish()


@contextmanager
def running_bare_server() -> Iterator[RunningProgram]:
    """Runs the server on a free loopback port for as long as the context."""
    command = [sys.executable, "-m", "serve_app.bench.bare_server"]
    with running_program(command, READY, dict(os.environ)) as (line, seconds):
        yield RunningProgram("127.0.0.1", int(line.removeprefix(READY)), seconds)


def main() -> None:
    """Serves until a signal arrives."""
    end_with_parent()
    config = AppConfig()
    thread = ThreadPoolExecutor(1)
    engine = thread.submit(load_engine, first_replica_of("hibari", config)).result()
    listening = socket.create_server(("127.0.0.1", 0))
    print(f"{READY}{listening.getsockname()[1]}", flush=True)
    application = build(config, engine, thread)
    uvicorn.Server(
        uvicorn.Config(application, log_level="warning", access_log=False, timeout_keep_alive=KEEP_ALIVE_S)
    ).run(sockets=[listening])


if __name__ == "__main__":
    main()
