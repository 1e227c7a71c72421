"""The API keys of a gateway: which ones are known now, what each may do, and how much of its quotas is left.

Only SHA-256 digests of keys are kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Protocol

import yaml
from pydantic import TypeAdapter, ValidationError

from deployments.errors import fail, quoted
from deployments.strict_yaml import DuplicateEntryError, strict_yaml
from serve_app.edge.settings import Keys, KeySettings, SecuritySettings
from serve_app.gateway.audit import audit
from serve_app.gateway.key_quotas import Quota, QuotaBucket

Clock = Callable[[], float]
FileState = tuple[int, int, int]
"""Time of the last change in ns, size, and number of a file."""
MAX_FILE_BYTES = 2**20
_KEYS: TypeAdapter[Mapping[str, KeySettings]] = TypeAdapter(Keys)


class ApiKey:
    """A known key. `owner` stays the same when the key is replaced by a new one with the same name."""

    def __init__(
        self,
        name: str | None,
        owner: str,
        settings: KeySettings | None = None,
        requests: Quota | None = None,
        audio: Quota | None = None,
        *,
        local: bool = False,
    ) -> None:
        self.local = local
        self.name = name
        self.owner = owner
        self.settings = settings
        self.requests = requests or QuotaBucket(None)
        self.audio = audio or QuotaBucket(None)

    @property
    def title(self) -> str:
        """How messages and the audit log call it."""
        return self.name or "without a name"

    @property
    def admin(self) -> bool:
        """Whether it administers."""
        return self.settings is not None and self.settings.admin

    @property
    def changes_models(self) -> bool:
        """Whether it adds, loads, unloads and removes models: an admin key, or this machine if there are no keys."""
        return self.admin or self.local

    def expired(self, today: date) -> bool:
        """Whether it is refused on this day."""
        return self.settings is not None and self.settings.expires is not None and today >= self.settings.expires

    def may_use(self, model: str) -> bool:
        """Whether it may use a model."""
        return self.settings is None or self.settings.models is None or model in self.settings.models

    def ensure_may_use(self, model: str) -> None:
        """Raises `MotetError` (forbidden) for a model that it may not use."""
        if self.may_use(model):
            return
        audit("key_refused", key=self.title, reason="model_not_allowed", model=model)
        allowed = ", ".join((self.settings and self.settings.models) or ()) or "none"
        cause = f"This API key may not use the model {quoted(model)}."
        raise fail("forbidden", cause, f"Use one of: {allowed}.", param="model", code="model_not_allowed")

    def count_request(self) -> None:
        """Takes one request from the quota. Raises `MotetError` (overloaded) if there is none left."""
        if wait_s := self.requests.wait_s(1.0):
            cause = f"This API key may begin {self.requests.per_minute:g} requests a minute."
            raise fail("overloaded", cause, "Try again later.", code="request_quota", retry_after_s=wait_s)
        self.requests.take(1.0)

    def take_audio(self, seconds: float) -> None:
        """Models made or read so much audio for it."""
        self.audio.take(seconds)

    def ensure_audio(self) -> None:
        """Raises `MotetError` (overloaded) if the quota of audio is used up."""
        if wait_s := self.audio.wait_s():
            cause = f"This API key has used its {self.audio.per_minute:g} s of audio a minute."
            raise fail("overloaded", cause, "Try again later.", code="audio_quota", retry_after_s=wait_s)


class SharedQuotas(Protocol):
    """Quotas that several gateways share: see `QuotaLeases`."""

    def quota(self, name: str, per_minute: float | None, *, whole: bool) -> Quota:
        """This gateway's part of a quota."""

    async def fetch(self, needs: Sequence[tuple[Quota, float]]) -> None:
        """Fetches the missing amounts from the ledger, if it may have them."""


class KeyRing:
    """The keys of the configuration and of its keys file. It belongs to one event loop. With `shared`, other
    gateways have the same quotas.

    The first reading of the file raises `MotetError`; a later one that fails keeps the keys and is logged.
    """

    def __init__(
        self,
        settings: SecuritySettings,
        clock: Clock = time.monotonic,
        unix_time: Clock = time.time,
        shared: SharedQuotas | None = None,
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._clock = clock
        self._unix_time = unix_time
        self._path = Path(settings.keys_file).expanduser() if settings.keys_file else None
        self._checked_s = clock()
        self._file = _state(self._path)
        self._by_digest: dict[str, ApiKey] = {}
        self._use(_read(self._path) if self._path else {})

    @property
    def needed(self) -> bool:
        """Whether requests need a key."""
        return self._settings.needs_key

    def without_key(self, *, local: bool) -> ApiKey:
        """What stands for the key of a request in a service without keys. `local`: it came from this machine."""
        return ApiKey(None, "", local=local and self._settings.local_models)

    @property
    def signers(self) -> tuple[str, ...]:
        """The digests of the keys whose client secrets are valid now."""
        today = self.today()
        return tuple(digest for digest, key in self._by_digest.items() if not key.admin and not key.expired(today))

    def today(self) -> date:
        """The day in UTC."""
        return datetime.fromtimestamp(self._unix_time(), UTC).date()

    def find(self, digest: str) -> ApiKey | None:
        """The key with this digest, also an expired one."""
        # All digests are compared, so that the time taken does not tell which one matches.
        found = [key for known, key in self._by_digest.items() if hmac.compare_digest(digest, known)]
        return found[0] if found else None

    def owner(self, digest: str) -> str:
        """Whose voices and quotas a request with this digest has: one name for all digests of a named key."""
        key = self.find(digest)
        return key.owner if key is not None else digest

    def of_owner(self, owner: str) -> ApiKey | None:
        """The key of an owner, who made a job with it."""
        return next((key for key in self.named() if key.owner == owner), None)

    def named(self) -> Iterator[ApiKey]:
        """All keys, each once."""
        yield from dict.fromkeys(self._by_digest.values())

    async def fetch_quotas(self, key: ApiKey, requests: int) -> None:
        """Fetches from the ledger what this gateway lacks to decide about this many requests of a key."""
        if self._shared is not None:
            needs = [(key.audio, 0.0), *([(key.requests, float(requests))] if requests else [])]
            await self._shared.fetch(needs)

    async def refresh(self) -> None:
        """Reads the keys file again if it has changed. Looks at most every `keys_file_check_s`."""
        now_s = self._clock()
        if self._path is None or now_s - self._checked_s < self._settings.keys_file_check_s:
            return
        self._checked_s = now_s
        state = await asyncio.to_thread(_state, self._path)
        if state == self._file:
            return
        self._file = state
        try:
            self._use(await asyncio.to_thread(_read, self._path))
        except Exception as error:
            audit("keys_file_refused", file=str(self._path), cause=str(error))

    def _use(self, from_file: Mapping[str, KeySettings]) -> None:
        """Replaces the keys. Those that keep their name keep the shares of their quotas that are left."""
        settings = _KEYS.validate_python({**self._settings.keys, **from_file})
        before = {key.name: key for key in self.named()}
        keys = {name: self._kept(before.get(name), name, each) for name, each in settings.items()}
        self._by_digest = {digest: keys[name] for name, each in settings.items() for digest in each.sha256}
        for digest in self._settings.api_key_sha256:
            self._by_digest.setdefault(digest, ApiKey(None, digest))
        _audit_change({name: key.settings for name, key in before.items() if name}, settings)

    def _kept(self, before: ApiKey | None, name: str, settings: KeySettings) -> ApiKey:
        owner = hashlib.sha256(f"motet key {name}".encode()).hexdigest()
        requests, audio = settings.requests_per_minute, settings.seconds_of_audio_per_minute
        if before is None:
            quotas = self._quota(f"{name} requests", requests, whole=True), self._quota(f"{name} audio", audio)
            return ApiKey(name, owner, settings, *quotas)
        before.requests.change(requests)
        before.audio.change(audio)
        return ApiKey(name, owner, settings, before.requests, before.audio)  # running requests go on charging them

    def _quota(self, name: str, per_minute: float | None, *, whole: bool = False) -> Quota:
        if self._shared is None:
            return QuotaBucket(per_minute, self._clock)
        return self._shared.quota(name, per_minute, whole=whole)


def _audit_change(before: Mapping[str, KeySettings | None], after: Mapping[str, KeySettings]) -> None:
    """One line for the names of keys that came, went or changed."""
    changed = [name for name in after if name in before and before[name] != after[name]]
    names = {"added": sorted(set(after) - set(before)), "removed": sorted(set(before) - set(after)), "changed": changed}
    if any(names.values()):
        audit("keys_changed", **{change: each for change, each in names.items() if each})


def _state(path: Path | None) -> FileState | None:
    """What tells whether a file has changed; None if it cannot be read."""
    try:
        facts = path.stat() if path else None
    except OSError:
        return None
    return facts and (facts.st_mtime_ns, facts.st_size, facts.st_ino)


def _read(path: Path) -> Mapping[str, KeySettings]:
    """The keys of a file. Raises `MotetError` (invalid)."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES:,} bytes")
        return _KEYS.validate_python(strict_yaml(data) or {})
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise fail("invalid", f"The keys file {path} cannot be used: {_why(error)}.", "Correct it.") from error


def _why(error: Exception) -> str:
    """What is wrong, without the values in the file: they are digests, or a key that somebody put there."""
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
    if isinstance(error, DuplicateEntryError):
        return f"{error.problem}; to replace a key, add the new digest to the list `sha256` of that entry"
    if isinstance(error, yaml.YAMLError):
        mark = getattr(error, "problem_mark", None)
        return f"it is not YAML, line {mark.line + 1}" if mark else "it is not YAML"
    return error.strerror or "it cannot be read" if isinstance(error, OSError) else str(error)
