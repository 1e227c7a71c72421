"""Uploaded voices at rest: unreadable without a key, readable with an old one, and gone after a deletion."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from deployments.errors import MotetError
from serve_app.cli.command_group import app
from serve_app.gateway.settings import VoiceSettings
from serve_app.gateway.voice_encryption import is_encrypted, new_key
from serve_app.gateway.voice_store import EVERYONE, VoiceStore

from .test_voice_store import CONSENT, clip


def store_in(folder: Path, *keys: str) -> VoiceStore:
    """A store with these keys; without any, it does not encrypt."""
    file = folder / "keys"
    file.write_text("# newest first\n\n" + "\n".join(keys))
    return VoiceStore(VoiceSettings(folder=str(folder / "voices"), keys_file=str(file) if keys else None))


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "voices").rglob("*") if path.is_file()}


def test_an_encrypted_voice_shows_nothing_and_is_used_as_usual(tmp_path: Path) -> None:
    store = store_in(tmp_path, new_key())
    voice = store.add("me", clip(), "Ada", CONSENT, "Ah.")
    (content,) = files_in(tmp_path).values()
    assert is_encrypted(content)
    with pytest.raises(ValueError, match="pickled"):
        np.load(io.BytesIO(content), allow_pickle=False)
    for part in (CONSENT.encode(), b"about", b"samples", b"\0\0"):
        assert part not in content
    assert store.listed("me") == [store.get("me", voice.id)] == [voice]
    assert store.add("me", clip(), "Again", CONSENT, "Ah.") == voice
    open_store = VoiceStore(VoiceSettings(folder=str(tmp_path / "open")))
    open_store.add("me", clip(), "Ada", CONSENT, "Ah.")
    same = open_store.reference("me", voice.id).samples
    assert np.array_equal(store.reference("me", voice.id).samples, same)


def test_a_key_is_replaced_and_older_voices_follow(tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    plain = store_in(tmp_path).add("me", clip(pitch=200), "Ada", CONSENT, None)
    first = store_in(tmp_path, old).add("you", clip(pitch=201), "Bo", CONSENT, None)
    store = store_in(tmp_path, new, old)
    assert (store.get("me", plain.id), store.get("you", first.id)) == (plain, first)
    assert store.encrypt_all() == 2
    assert all(map(is_encrypted, files_in(tmp_path).values()))
    only_new = store_in(tmp_path, new)
    assert (only_new.get("me", plain.id), only_new.get("you", first.id)) == (plain, first)
    assert store_in(tmp_path, old).listed("me") == []


@pytest.mark.parametrize("keys", [(), (new_key(),)], ids=["no-key", "another-key"])
def test_a_voice_without_its_key_is_left_out_and_can_be_deleted(tmp_path: Path, keys: tuple[str, ...]) -> None:
    voice = store_in(tmp_path, new_key()).add("me", clip(), "Ada", CONSENT, None)
    before = files_in(tmp_path)
    store = store_in(tmp_path, *keys)
    assert store.listed("me") == []
    with pytest.raises(MotetError, match="cannot be read"):
        store.add("me", clip(), "Ada", CONSENT, None)
    if keys:
        assert store.encrypt_all() == 0
    assert files_in(tmp_path) == before
    store.delete("me", voice.id)
    assert files_in(tmp_path) == {}


def test_a_changed_file_is_not_a_voice(tmp_path: Path) -> None:
    store = store_in(tmp_path, new_key())
    voice = store.add("me", clip(), "Ada", CONSENT, None)
    file = tmp_path / "voices" / "me" / f"{voice.id}.npz"
    data = bytearray(file.read_bytes())
    data[500] ^= 1
    file.write_bytes(data)
    with pytest.raises(MotetError, match="no voice"):
        store.reference("me", voice.id)


@pytest.mark.parametrize(
    "content", ["", "# nothing\n", "secret\n", new_key()[:-1]], ids=["empty", "comment", "word", "cut"]
)
def test_what_is_not_a_file_of_keys_is_refused_without_its_content(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(MotetError, match="motet voices new-key") as refused:
        VoiceStore(VoiceSettings(folder=str(tmp_path), keys_file=str(file)))
    assert not content.strip() or content.strip() not in str(refused.value)
    with pytest.raises(MotetError, match="No such file"):
        VoiceStore(VoiceSettings(folder=str(tmp_path), keys_file=str(tmp_path / "none")))


def test_the_commands_make_a_key_and_encrypt(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(CliRunner().invoke(app, ["voices", "new-key"]).stdout)
    config = tmp_path / "serve_config.yaml"
    folder = tmp_path / "voices"
    settings = f"{{voices: {{folder: {folder}, keys_file: {keys}}}}}"
    config.write_text(f"applications: [{{name: motet, args: {settings}}}]")
    VoiceStore(VoiceSettings(folder=str(folder))).add(EVERYONE, clip(), "Ada", CONSENT, None)
    done = CliRunner().invoke(app, ["voices", "encrypt", "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert "first key now: 1" in done.output
    assert all(map(is_encrypted, files_in(tmp_path).values()))
