"""Diarizations, speech timestamps and embeddings over HTTP, with the real tasks and without Ray."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import numpy as np
import pytest
from openai.types import CreateEmbeddingResponse

from deployments.audio.decode import AudioDecoder
from deployments.engines.protocols import Samples
from deployments.replica.chunker import Chunker, CuttingTask
from deployments.settings import RecordingSettings, VoiceActivitySettings, WindowSettings
from deployments.tasks.diarization import SpeakerTurn
from deployments.tasks.voice_activity import SpeechSection, SpeechTicket
from serve_app.gateway.analysis import RecordingAnalysis
from serve_app.gateway.middleware.ignored_fields import HEADER
from serve_app.gateway.recording import Recordings
from serve_app.gateway.routing.admission import Ticket
from tests.unit.recognition_engine_properties import SENTENCES, spoken
from tests.unit.test_api import Bench
from tests.unit.test_separation_graph import Remote
from tests.unit.test_voice_embedding import wav

RATE = 16_000


class Analyses:
    """Gives fixed tickets, or those of the task itself."""

    def __init__(self, tickets: list[Any] | None = None) -> None:
        self.tickets = tickets
        self.tasks: list[Any] = []

    async def run(
        self, upload: AsyncIterator[bytes], task: CuttingTask, _: object, ticket: Ticket
    ) -> AsyncIterator[Any]:
        self.tasks.append(task)
        try:
            data = b"".join([block async for block in upload])
            for each in self.tickets or [
                found for found, _ in task.cut(io.BytesIO(data), WindowSettings(), AudioDecoder)
            ]:
                yield each
        finally:
            ticket.close()


TURNS = (SpeakerTurn(0.5, 2.25, "A"), SpeakerTurn(2.25, 4.0, "Ada Byron"))
FOUND = [
    SpeechTicket(0, (SpeechSection(0.5, 1.0),), 30.0),
    SpeechTicket(1, (SpeechSection(31.0, 41.0),), 45.5, TURNS),
]


async def sent(path: str, analyses: object, data: bytes = b"RIFF", /, **fields: Any) -> httpx.Response:
    bench = Bench(analyses=analyses)
    answer = await bench.client.post(f"/v1/audio/{path}", data=fields, files={"file": data})
    assert all(queue.open == 0 for queue in bench.admission.snapshot().values())
    return answer


def recording() -> bytes:
    pause = np.zeros(2 * RATE, np.float32)
    samples: Samples = np.concatenate([pause, spoken(SENTENCES[0], RATE), pause, spoken(SENTENCES[1], RATE), pause])
    return wav(samples).getvalue()


async def test_a_diarization_has_turns() -> None:
    answer = await sent("diarizations", Analyses(FOUND))
    assert answer.json() == {
        "duration": 45.5,
        "segments": [
            {"start": 0.5, "end": 2.25, "speaker": "A"},
            {"start": 2.25, "end": 4.0, "speaker": "Ada Byron"},
        ],
        "usage": {"type": "duration", "seconds": 45.5},
    }


async def test_a_diarization_as_rttm() -> None:
    answer = await sent("diarizations", Analyses(FOUND), response_format="rttm")
    assert answer.text.splitlines() == [
        "SPEAKER recording 1 0.500 1.750 <NA> <NA> A <NA> <NA>",
        "SPEAKER recording 1 2.250 1.750 <NA> <NA> Ada_Byron <NA> <NA>",
    ]


async def test_a_known_speaker_is_named() -> None:
    known = wav(np.tile(spoken(SENTENCES[2], RATE), 2)[: 4 * RATE]).getvalue()
    url = f"data:audio/wav;base64,{base64.b64encode(known).decode()}"
    fields = {"known_speaker_names[]": "Heart", "known_speaker_references[]": url}
    answer = await sent("diarizations", Analyses(), recording(), **fields)
    assert {segment["speaker"] for segment in answer.json()["segments"]} == {"Heart"}


async def test_the_number_of_speakers_reaches_the_task() -> None:
    analyses = Analyses(FOUND)
    await sent("diarizations", analyses, num_speakers="3")
    assert analyses.tasks[0].speakers.speakers == 3
    answer = await sent("diarizations", analyses, speakers="3", max_speakers="4")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "speakers")


async def test_timestamps_are_milliseconds() -> None:
    answer = await sent("speech/timestamps", Analyses(FOUND))
    assert answer.json() == [{"start": 500, "end": 1000}, {"start": 31_000, "end": 41_000}]
    answer = await sent("speech/timestamps", Analyses(FOUND), max_speech_duration_s="4")
    assert [part["start"] for part in answer.json()] == [500, 31_000, 34_333, 37_667]


async def test_speech_is_found_in_a_recording() -> None:
    answer = await sent("speech/timestamps", Analyses(), recording(), speech_pad_ms="0")
    first, second = answer.json()
    assert 1_800 < first["start"] < 2_600
    assert 1_500 < second["start"] - first["end"] < 3_000


async def test_voice_activity_of_a_request() -> None:
    analyses = Analyses(FOUND)
    fields = {
        "threshold": "0.75", "neg_threshold": "0.3", "min_speech_duration_ms": "50", "min_silence_duration_ms": "1000",
        "speech_pad_ms": "30", "model": "silero_vad_v5",
    }  # fmt: skip
    answer = await sent("speech/timestamps", analyses, **fields)
    assert answer.headers[HEADER] == "model, neg_threshold"
    assert analyses.tasks[0].voice_activity == VoiceActivitySettings(
        threshold=0.75, min_speech_ms=50, min_silence_ms=1000, pad_ms=30
    )
    await sent("speech/timestamps", analyses)
    assert analyses.tasks[1].voice_activity == VoiceActivitySettings()


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("speech/timestamps", {"threshold": "1.5"}, "threshold"),
        ("speech/timestamps", {"max_speech_duration_s": "0.1"}, "max_speech_duration_s"),
        ("speech/timestamps", {"treshold": "0.5"}, "treshold"),
        ("diarizations", {"response_format": "srt"}, "response_format"),
        ("embeddings", {"encoding_format": "int8"}, "encoding_format"),
    ],
)
async def test_values_that_cannot_be_honoured_are_refused(path: str, fields: dict[str, str], param: str) -> None:
    analyses = Analyses(FOUND)
    answer = await sent(path, analyses, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not analyses.tasks


async def test_an_embedding_has_the_shape_of_openais() -> None:
    data = recording()
    answer = await sent("embeddings", Analyses(), data)
    found = CreateEmbeddingResponse.model_validate(answer.json())
    assert len(found.data[0].embedding) == 256
    assert found.usage.total_tokens == round(50 * (len(data) - 44) / 2 / RATE)
    packed = (await sent("embeddings", Analyses(), data, encoding_format="base64")).json()["data"][0]["embedding"]
    assert np.allclose(np.frombuffer(base64.b64decode(packed), "<f4"), found.data[0].embedding)


async def test_silence_has_no_voice() -> None:
    answer = await sent("embeddings", Analyses(), wav(np.zeros(RATE, np.float32)).getvalue())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_little_speech")


@pytest.mark.parametrize("path", ["diarizations", "speech/timestamps", "embeddings"])
async def test_a_service_without_audio_helpers_says_so(path: str) -> None:
    answer = await sent(path, None)
    assert answer.status_code == 400
    assert "Add a model" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["diarizations", "speech/timestamps", "embeddings"])
async def test_an_audio_helper_does_it_all(path: str) -> None:
    helper = Chunker(RecordingSettings())
    recordings = Recordings([cast("Any", Remote(helper))], RecordingSettings())
    analyses = RecordingAnalysis(recordings, WindowSettings())
    answer = await sent(path, analyses, recording())
    assert answer.status_code == 200, answer.text
    damaged = await sent(path, analyses, b"RIFF" + bytes(300))
    assert damaged.status_code == 400
    assert await helper.sessions() == 0
