"""The deletion of an uploaded voice: its file, the speech that was cached here, and what replicas computed from its clip."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from serve_app.gateway.audit import audit
from serve_app.gateway.routing.placement import PlacedModel
from serve_app.gateway.speech.piece_cache import PieceCache
from serve_app.gateway.voice_store import VoiceStore

CONFIRM_S = 10.0
"""How long replicas have to confirm. One that is frozen for longer is replaced, and its memory with it."""


async def delete_voice(
    store: VoiceStore, cache: PieceCache, placements: Sequence[PlacedModel], owner: str, id: str
) -> None:
    """Deletes a voice everywhere; `placements` are those of the speech models. The audit log names the ones of which a
    replica did not confirm.

    Raises `MotetError` (not_found), also for other owners' voices.
    """
    await asyncio.to_thread(store.delete, owner, id)
    cache.forget_voice(id)
    confirmed = await asyncio.gather(
        *(each.tell_replicas("forget_voice", id, timeout_s=CONFIRM_S) for each in placements)
    )
    silent = [each.name for each, done in zip(placements, confirmed, strict=True) if not done]
    audit("voice_deleted", voice=id, **({"not_confirmed_by": silent} if silent else {}))


async def forget_deleted_elsewhere(store: VoiceStore, cache: PieceCache) -> None:
    """Drops the cached speech of uploaded voices that another gateway deleted. No client gets it: requests are refused."""
    uploaded = [voice for voice in cache.voices if store.is_id(voice)]
    with suppress(OSError):  # the folder cannot be read now
        for voice in uploaded:
            if not await asyncio.to_thread(store.has_any_owner, voice):
                cache.forget_voice(voice)
