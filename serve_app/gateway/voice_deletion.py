"""The deletion of an uploaded voice: its file, the speech that was cached here, and what replicas computed from its clip."""

from __future__ import annotations

import asyncio
from itertools import chain

from serve_app.gateway.audit import audit
from serve_app.gateway.service import Service

CONFIRM_S = 10.0
"""How long replicas have to confirm. One that is frozen for longer is replaced, and its memory with it."""


async def delete_voice(service: Service, owner: str, id: str) -> None:
    """Deletes a voice everywhere. The audit log names the placements of which a replica did not confirm.

    Raises `MotetError` (not_found), also for other owners' voices.
    """
    await asyncio.to_thread(service.voices.delete, owner, id)
    service.cache.forget_voice(id)
    speaking = service.speech_models.names
    placements = list(chain.from_iterable(map(service.directory.placements, speaking)))
    confirmed = await asyncio.gather(
        *(each.tell_replicas("forget_voice", id, timeout_s=CONFIRM_S) for each in placements)
    )
    silent = [each.name for each, done in zip(placements, confirmed, strict=True) if not done]
    audit("voice_deleted", voice=id, **({"not_confirmed_by": silent} if silent else {}))
