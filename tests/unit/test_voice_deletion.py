"""After the deletion of an uploaded voice, no folder, no cache and no replica has anything of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.engines.protocols import SpeechRequest
from deployments.replica.wire import PackedChunk
from serve_app.gateway import voice_deletion

from .test_voice_store import CONSENT, Cloner, bench, clip, upload


class Sleeper(Cloner):
    """Does not answer that it has forgotten a voice."""

    async def forget_voice(self, id: str) -> None:
        await asyncio.Event().wait()


def found_in(folder: Path, *parts: bytes) -> list[Path]:
    """The files whose name or content has one of the parts."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [
        path
        for path in files
        if any(part in path.read_bytes() or part.decode("latin-1") in path.name for part in parts)
    ]


async def test_nothing_of_a_deleted_voice_stays(tmp_path: Path) -> None:
    voices, cloner = tmp_path / "voices", Cloner()
    service = bench(voices, cloner, jobs={"folder": str(tmp_path / "jobs")})
    kept = (await upload(service.client, sound=clip(pitch=330))).json()["id"]
    id = (await upload(service.client, text="Ah.")).json()["id"]
    reference = service.service.voices.reference("everyone", id)
    sound = np.rint(reference.samples[1000:1050] * 32768).astype("<i2").tobytes()
    for voice in (id, kept):
        assert (await service.speak(voice={"id": voice})).status_code == 200
    assert found_in(tmp_path, id.encode())
    assert found_in(tmp_path, sound)
    before = service.service.cache.bytes

    assert (await service.client.delete(f"/v1/audio/voices/{id}")).status_code == 200
    assert not found_in(tmp_path, id.encode(), sound, b"Ah.")
    assert 0 < service.service.cache.bytes < before
    assert {voice for voice, _ in service.service.cache._pieces} == {kept}
    assert cloner.forgotten == [id]
    assert (await service.client.get(f"/v1/audio/voices/{kept}")).status_code == 200
    assert found_in(tmp_path, CONSENT.encode()) == found_in(tmp_path, kept.encode())


async def test_speech_that_ends_after_the_deletion_is_not_cached(tmp_path: Path) -> None:
    class Waiting(Cloner):
        """Speaks when the voice is gone."""

        async def speak(self, request: SpeechRequest) -> AsyncIterator[PackedChunk]:
            begun.set()
            await deleted.wait()
            async for chunk in super().speak(request):
                yield chunk

    begun, deleted = asyncio.Event(), asyncio.Event()
    service = bench(tmp_path, Waiting())
    id = (await upload(service.client)).json()["id"]
    speaking = asyncio.create_task(service.speak(voice={"id": id}))
    await begun.wait()
    assert (await service.client.delete(f"/v1/audio/voices/{id}")).status_code == 200
    deleted.set()
    assert (await speaking).status_code == 200
    assert service.service.cache.bytes == 0


async def test_a_replica_that_does_not_confirm_is_in_the_audit_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(voice_deletion, "CONFIRM_S", 0.01)
    service = bench(tmp_path, Sleeper())
    id = (await upload(service.client)).json()["id"]
    answer: Any = await service.client.delete(f"/v1/audio/voices/{id}")
    assert answer.status_code == 200
    assert f'"act": "voice_deleted", "voice": "{id}", "not_confirmed_by": ["tone@cpu"]' in logged.text


async def test_another_clients_voice_is_not_touched(tmp_path: Path) -> None:
    service = bench(tmp_path, cloner := Cloner())
    id = (await upload(service.client)).json()["id"]
    before = service.service.cache.bytes
    assert (await service.client.delete(f"/v1/audio/voices/{id[:-1]}x")).status_code == 404
    assert (service.service.cache.bytes, cloner.forgotten) == (before, [])


async def test_a_voice_that_one_gateway_gets_is_at_once_another_ones_until_it_is_deleted(tmp_path: Path) -> None:
    here, there = bench(tmp_path, Cloner()), bench(tmp_path, Cloner())
    kept = (await upload(here.client, sound=clip(pitch=330))).json()["id"]
    id = (await upload(here.client)).json()["id"]
    for voice in (id, kept):
        assert (await there.speak(voice={"id": voice})).status_code == 200
    assert (await there.speak()).status_code == 200  # a voice of the model
    assert there.service.cache.voices > {id, kept}
    before = there.service.cache.voices

    assert (await here.client.delete(f"/v1/audio/voices/{id}")).status_code == 200
    assert (await there.speak(voice={"id": id})).status_code == 404
    await voice_deletion.forget_deleted_elsewhere(there.service.voices, there.service.cache)
    assert there.service.cache.voices == before - {id}
