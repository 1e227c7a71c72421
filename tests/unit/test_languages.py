"""Names and codes of languages."""

from __future__ import annotations

import pytest

from deployments.errors import MotetError
from deployments.text.languages import MAX_CHARACTERS, NAMES, checked_code, code_of


def test_every_language_of_whisper_is_known_and_no_other() -> None:
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    assert set(NAMES) == set(_LANGUAGE_CODES)


def test_every_name_has_its_code_and_others_stay_what_they_are() -> None:
    assert {code_of(name): name for name in NAMES.values()} == NAMES
    assert {code_of(code) for code in NAMES} == set(NAMES)
    assert code_of("klingon") == "klingon"
    assert (code_of(""), code_of(None), code_of("auto")) == (None, None, None)


@pytest.mark.parametrize(
    ("written", "code"),
    [
        *((word, "en") for word in ("en", "EN", "en-US", "en_US", "en_US.UTF-8", "english", "English", "eng", " en ")),
        *((word, "de") for word in ("de", "deu", "ger", "German", "de-AT")),
        *((word, "zh") for word in ("zh", "zh-Hans-CN", "cmn", "chi", "zho", "Mandarin")),
        *((word, "no") for word in ("no", "nb", "nob", "nb-NO")),
        ("yue", "yue"), ("haw", "haw"), ("jv", "jw"), ("iw", "he"), ("fil-PH", "tl"), ("Haitian Creole", "ht"),
        ("auto", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_a_language_is_known_however_clients_write_it(written: str | None, code: str | None) -> None:
    assert checked_code(written) == code == code_of(written)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("germna", "Did you mean 'german' (de)?"),
        ("frensh", "Did you mean 'french' (fr)?"),
        ("xx", "'xx' is not a language that this service knows. Send a code of ISO 639-1"),
        ("q" * 5_000, "… is not a language"),
    ],
)
def test_an_unknown_language_is_refused_with_the_nearest(written: str, says: str) -> None:
    with pytest.raises(MotetError) as refused:
        checked_code(written)
    failure = refused.value.failure
    assert says.strip("… ") in failure.message
    assert (failure.kind, failure.param, failure.code) == ("invalid", "language", "unknown_language")
    assert len(failure.message) < 4 * MAX_CHARACTERS
