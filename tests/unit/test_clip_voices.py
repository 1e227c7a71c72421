"""Voices computed from clips are cached by content; the least recently used one is evicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deployments.engines.forgotten_voices import REMEMBERED_S, ForgottenVoices
from deployments.engines.lm.clip_voices import ClipVoices
from deployments.engines.protocols import Samples, SpeechRequest, VoiceReference
from deployments.errors import MotetError
from tests.unit.cloning_engine_properties import write_voices


class Listener:
    """A voice is the number of the clip that was heard for it."""

    def __init__(self) -> None:
        self.heard = 0

    def __call__(self, clip: Samples, rate: int) -> int:
        self.heard += 1
        return self.heard


def reference(name: str) -> VoiceReference:
    return VoiceReference(name, np.zeros(8, np.float32), 24_000)


def test_the_voice_that_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    listener = Listener()
    voices = ClipVoices(tmp_path, listener, rate=24_000, most=2)
    used = [voices.of_reference(reference(name)) for name in ("a", "b", "a", "c", "a", "b")]
    assert used == [1, 2, 1, 3, 1, 4]


def test_a_deleted_voice_is_dropped_and_not_kept_again_by_requests_that_have_begun(tmp_path: Path) -> None:
    voices = ClipVoices(tmp_path, Listener(), rate=24_000, most=4)
    assert [voices.of_reference(reference(name)) for name in ("a", "b", "a")] == [1, 2, 1]
    voices.forget("a")
    voices.forget("unknown")
    assert [voices.of_reference(reference(name)) for name in ("a", "a", "b")] == [3, 4, 2]
    assert set(voices._kept) == {"b"}


def test_a_voice_that_was_uploaded_again_is_kept_after_a_while() -> None:
    now = [0.0]
    forgotten = ForgottenVoices(lambda: now[0])
    forgotten.add("a")
    assert "a" in forgotten and "b" not in forgotten
    now[0] = REMEMBERED_S
    assert "a" not in forgotten
    forgotten.add("b")
    assert len(forgotten._until_s) == 1


def test_a_clip_of_the_folder_is_heard_again_when_it_has_changed(tmp_path: Path) -> None:
    write_voices(tmp_path, (1.0, 2.0))
    listener = Listener()
    voices = ClipVoices(tmp_path, listener, rate=24_000, most=4)
    assert voices.of_request(SpeechRequest(("Yes.",), "ada,ben,ada")) == (1, 2, 1)
    (tmp_path / "voices" / "ada.wav").write_bytes((tmp_path / "voices" / "ben.wav").read_bytes())
    assert voices.of_name("ada") == 2


def test_an_unknown_voice_is_told_with_the_known_ones(tmp_path: Path) -> None:
    write_voices(tmp_path, (1.0, 2.0))
    with pytest.raises(MotetError, match="'carl'.*ada, ben"):
        ClipVoices(tmp_path, Listener(), rate=24_000, most=4).of_request(SpeechRequest(("Yes.",), "ada,carl"))


def test_what_cannot_be_spoken_with_is_logged_and_left_out(tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    write_voices(tmp_path, (1.0, 2.0))
    folder = tmp_path / "voices"
    whole = (folder / "ada.wav").read_bytes()
    (folder / "a,b.wav").write_bytes(whole)
    (folder / "cut.wav").write_bytes(whole[:30])
    (folder / "text.wav").write_text("no sound at all")
    (folder / "empty.wav").touch()
    (folder / "folder.wav").mkdir()
    assert ClipVoices(tmp_path, Listener(), rate=24_000, most=4).names == ("ada", "ben")
    for name in ("a,b", "cut", "text", "empty", "folder"):
        assert f"{name}.wav is not used as a voice" in logged.text


def test_a_clip_may_end_in_capitals(tmp_path: Path) -> None:
    write_voices(tmp_path, (1.0, 2.0))
    (tmp_path / "voices" / "ben.wav").rename(tmp_path / "voices" / "Loud.WAV")
    voices = ClipVoices(tmp_path, Listener(), rate=24_000, most=4)
    assert voices.names == ("Loud", "ada")
    assert voices.of_name("Loud") == 1


def test_a_model_without_clips_has_no_names(tmp_path: Path) -> None:
    assert ClipVoices(tmp_path, Listener(), rate=24_000, most=4).names == ()


@pytest.mark.parametrize("data", [None, b"", b"no sound at all"], ids=["gone", "empty", "text"])
def test_a_clip_that_is_lost_later_is_not_found(tmp_path: Path, data: bytes | None) -> None:
    write_voices(tmp_path, (1.0, 2.0))
    voices = ClipVoices(tmp_path, Listener(), rate=24_000, most=4)
    file = tmp_path / "voices" / "ada.wav"
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(MotetError, match="'ada' is not available: its clip.*another voice") as caught:
        voices.of_request(SpeechRequest(("Yes.",), "ben,ada"))
    assert (caught.value.failure.kind, caught.value.failure.param) == ("not_found", "voice")
