"""Words with their pronunciation in the International Phonetic Alphabet, as `[tomato](/təˈmeɪtoʊ/)` in a spoken text."""

from __future__ import annotations

import re
from collections.abc import Callable

_LINK = re.compile(r"\[([^\[\]]{1,100})\]\(/([^()/\[\]]{1,200})/\)")
"""The form of misaki (https://github.com/hexgrad/misaki), whose phonemes hibari and Kokoro read."""
_UNWRITABLE = re.compile(r"[()/\[\]]")

_ONSETS = "bcdfhjklmnpqrstvwxzçðŋɡɣɥɲɹɾʃʎʒʔʤʧθβχʁ"
_COMMON = (
    ("t͡ʃ", "ʧ"), ("d͡ʒ", "ʤ"), ("tʃ", "ʧ"), ("dʒ", "ʤ"), ("eɪ", "A"), ("aɪ", "I"), ("aʊ", "W"), ("ɔɪ", "Y"),
    ("ɫ", "l"), ("g", "ɡ"), ("r", "ɹ"), ("e", "ɛ"), ("'", "ˈ"), (",", "ˌ"),
)  # fmt: skip
_AMERICAN = (
    ("oʊ", "O"),
    ("əʊ", "O"),
    ("ɚ", "əɹ"),
    ("ɝ", "ɜɹ"),
    ("a", "æ"),
    ("ɒ", "ɑ"),
    ("o", "ɔ"),
    ("ː", ""),
    ("ɾ", "T"),
)
_BRITISH = (("əʊ", "Q"), ("oʊ", "Q"), ("ɚ", "ə"), ("ɝ", "ɜː"), ("æ", "a"), ("eə", "ɛː"), ("ɛə", "ɛː"), ("o", "ɔ"))
_STRESSED_ONSET = re.compile(rf"([ˈˌ])([{_ONSETS}]+)")


def pronounced(word: str, ipa: str) -> str:
    """A word with its pronunciation. A word or an IPA text that cannot be written so is returned without it."""
    link = f"[{_UNWRITABLE.sub(' ', word)}](/{_UNWRITABLE.sub('', ipa)}/)"
    return link if _LINK.fullmatch(link) else word


def without_pronunciations(text: str) -> str:
    """A text for a model that does not read phonemes: only its words."""
    return _LINK.sub(lambda link: link[1], text)


def without_pronounced_words(text: str) -> str:
    """A text without the words that have a pronunciation."""
    return _LINK.sub("", text)


def read_around(text: str, plain: Callable[[str], str], *, british: bool = False) -> str:
    """A text for misaki or hibari: what stands between pronunciations as `plain` returns it, and pronunciations in their
    alphabet."""
    parts, at = [], 0
    for link in _LINK.finditer(text):
        parts += [plain(text[at : link.start()]), f"[{link[1]}](/{misaki_phonemes(link[2], british=british)}/)"]
        at = link.end()
    return "".join([*parts, plain(text[at:])])


def misaki_phonemes(ipa: str, *, british: bool) -> str:
    """IPA in misaki's alphabet: one letter for a diphthong, and stress before the vowel rather than the syllable."""
    phonemes = re.sub(r"[.\u0361\u035c‿|]", "", ipa.replace("͡", "").strip())
    # Longer ones first, since "eɪ" is not "e" and "ɪ".
    pairs = sorted((*_COMMON, *(_BRITISH if british else _AMERICAN)), key=lambda pair: -len(pair[0]))
    table = dict(pairs)
    phonemes = re.sub("|".join(re.escape(sign) for sign in table), lambda sign: table[sign[0]], phonemes)
    return _STRESSED_ONSET.sub(r"\2\1", phonemes)
