"""Languages by code and by name, as clients write them and as OpenAI's transcripts write them.

The languages, their codes and English names are those of Whisper (`whisper/tokenizer.py`, MIT). The three-letter codes are
those of ISO 639-2 and 639-3, with the older bibliographic code where a language has one (`deu`, `ger`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

from deployments.errors import MotetError, fail, quoted

_TABLE = """
af/afr afrikaans, am/amh amharic, ar/ara arabic, as/asm assamese, az/aze azerbaijani, ba/bak bashkir,
be/bel belarusian, bg/bul bulgarian, bn/ben bengali, bo/bod/tib tibetan, br/bre breton, bs/bos bosnian,
ca/cat catalan, cs/ces/cze czech, cy/cym/wel welsh, da/dan danish, de/deu/ger german, el/ell/gre greek,
en/eng english, es/spa spanish, et/est estonian, eu/eus/baq basque, fa/fas/per persian, fi/fin finnish,
fo/fao faroese, fr/fra/fre french, gl/glg galician, gu/guj gujarati, ha/hau hausa, haw hawaiian, he/heb/iw hebrew,
hi/hin hindi, hr/hrv croatian, ht/hat haitian creole, hu/hun hungarian, hy/hye/arm armenian, id/ind/in indonesian,
is/isl/ice icelandic, it/ita italian, ja/jpn japanese, jw/jav/jv javanese, ka/kat/geo georgian, kk/kaz kazakh,
km/khm khmer, kn/kan kannada, ko/kor korean, la/lat latin, lb/ltz luxembourgish, ln/lin lingala, lo/lao lao,
lt/lit lithuanian, lv/lav latvian, mg/mlg malagasy, mi/mri/mao maori, mk/mkd/mac macedonian, ml/mal malayalam,
mn/mon mongolian, mr/mar marathi, ms/msa/may malay, mt/mlt maltese, my/mya/bur myanmar, ne/nep nepali,
nl/nld/dut dutch, nn/nno nynorsk, no/nor/nb/nob norwegian, oc/oci occitan, pa/pan punjabi, pl/pol polish, ps/pus pashto,
pt/por portuguese, ro/ron/rum romanian, ru/rus russian, sa/san sanskrit, sd/snd sindhi, si/sin sinhala,
sk/slk/slo slovak, sl/slv slovenian, sn/sna shona, so/som somali, sq/sqi/alb albanian, sr/srp serbian,
su/sun sundanese, sv/swe swedish, sw/swa swahili, ta/tam tamil, te/tel telugu, tg/tgk tajik, th/tha thai,
tk/tuk turkmen, tl/tgl/fil tagalog, tr/tur turkish, tt/tat tatar, uk/ukr ukrainian, ur/urd urdu, uz/uzb uzbek,
vi/vie vietnamese, yi/yid yiddish, yo/yor yoruba, yue cantonese, zh/zho/chi/cmn chinese
"""
"""Codes, the one of this service first, and the name."""
_OTHER_NAMES: Mapping[str, str] = {
    "burmese": "my", "castilian": "es", "farsi": "fa", "filipino": "tl", "flemish": "nl", "haitian": "ht",
    "letzeburgesch": "lb", "mandarin": "zh", "moldavian": "ro", "moldovan": "ro", "panjabi": "pa", "pushto": "ps",
    "sinhalese": "si", "valencian": "ca",
}  # fmt: skip
DETECTED = ("", "auto", "detect")
"""What clients write for a language that is to be detected."""
MAX_CHARACTERS = 64
"""Of a language that is compared with the known ones."""

_ENTRIES = [entry.strip().split(" ", 1) for entry in _TABLE.split(",")]
NAMES: Mapping[str, str] = {codes.split("/")[0]: name for codes, name in _ENTRIES}
"""The English names of languages by their codes: ISO 639-1 where it has one, but `jw` for Javanese as Whisper writes it."""
_CODES: Mapping[str, str] = {
    **{code: codes.split("/")[0] for codes, _ in _ENTRIES for code in codes.split("/")},
    **{name: code for code, name in NAMES.items()},
    **_OTHER_NAMES,
}


def code_of(language: str | None) -> str | None:
    """The code of a language in any of the ways that clients write it (`english`, `eng`, `en-US`, `EN`). None if it is
    to be detected; what is not known is returned as it is."""
    return _known(language) or language if language and language.strip().lower() not in DETECTED else None


def checked_code(language: str | None, param: str = "language") -> str | None:
    """The same. Raises `MotetError` (invalid) with the nearest language for an unknown one."""
    if language is None or language.strip().lower() in DETECTED:
        return None
    if code := _known(language):
        return code
    raise _unknown(language, param)


def _known(language: str) -> str | None:
    plain = language.strip().lower()
    # The language of a locale or a BCP 47 tag: `en_US.UTF-8`, `zh-Hans-CN`. Names may have a space, but no such mark.
    return _CODES.get(plain) or _CODES.get(re.split(r"[-_.]", plain, maxsplit=1)[0])


def _unknown(language: str, param: str) -> MotetError:
    names = [*NAMES.values(), *_OTHER_NAMES]
    near = get_close_matches(language.lower(), names, n=1) if len(language) <= MAX_CHARACTERS else []
    remedy = f"Did you mean {near[0]!r} ({_CODES[near[0]]})? " if near else ""
    return fail(
        "invalid",
        f"{param} {quoted(language)} is not a language that this service knows.",
        f"{remedy}Send a code of ISO 639-1 such as 'en', or leave it out to detect the language.",
        param=param,
        code="unknown_language",
    )
