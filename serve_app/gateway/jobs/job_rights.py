"""What the API key that made a job may do in one attempt of it: its quota of audio is charged once for each job."""

from __future__ import annotations

from serve_app.gateway.jobs.context import RunningJob
from serve_app.gateway.request_context import KeyRights


class JobRights:
    """The rights of a key, for one attempt. See `KeyRights`.

    An attempt makes or reads the same audio as the ones before it. Only what it makes beyond those is charged.
    """

    def __init__(self, key: KeyRights, job: RunningJob) -> None:
        self._key = key
        self._job = job
        self._made_seconds = 0.0

    @property
    def title(self) -> str:
        """How messages and the audit log call it."""
        return self._key.title

    @property
    def changes_models(self) -> bool:
        """Whether it adds, loads, unloads and removes models."""
        return self._key.changes_models

    def may_use(self, model: str) -> bool:
        """Whether it may use a model."""
        return self._key.may_use(model)

    def ensure_may_use(self, model: str) -> None:
        """Raises `MotetError` (forbidden) for a model that it may not use."""
        self._key.ensure_may_use(model)

    def ensure_audio(self) -> None:
        """Raises `MotetError` (overloaded) if its quota of audio is used up."""
        self._key.ensure_audio()

    def take_audio(self, seconds: float) -> None:
        """Models made or read so much audio for this attempt, or it was kept by an earlier one."""
        self._made_seconds += seconds
        more = self._made_seconds - self._job.charged_seconds
        if more > 0:
            self._key.take_audio(more)
            self._job.charged_seconds = self._made_seconds
