"""Words in capitals, which models would spell letter by letter."""

from __future__ import annotations

import re

_WORD = re.compile(r"(?<![\w.&-])([A-Z]{2,}(?:['’][A-Z]{1,2})?)(?![\w&]|\.[A-Z])")
_ANY = re.compile("[A-Z]{2}")
_LETTERS = re.compile(r"[^\W\d_]+")
_VOWEL = re.compile("[AEIOUY]")
_SPELLED_FROM = 5
"""Longer words with a vowel are words: "UNICEF" and "LASER" are also said as such."""
_SPELLED = frozenset(
    """
    AARP ACLU AIDS API APIS ASAP ATM BBC CEO CEOS CIA CPU CPUS DIY DNA EU FAQ FAQS FBI GPU GPUS GPS HIV HTML IBM ICU ID
    IDS IEEE IP IQ IRS IT JSON LED MIT NBA NFL OECD PIN PDF RAM ROM SAAS SUV TV UAE UCLA UFO UK UN UPS URL URLS USA US
    USB VIP VPN YMCA AI AM PM AD BC CE BCE NATO NASA ISO OPEC USSR EUROS WIFI AIDS NAACP ASCII HTTPS GDP API TTS STT
    """.split()  # noqa: SIM905
)
_SHOUTED = frozenset(
    """
    ALL AND ANY ARE ASK BAD BE BEST BIG BUT BUY CALL CAN COME DAY DO DONE DONT DOWN EASY END EVEN EVER FAST FINAL FIRE
    FIX FOR FREE FROM FULL GET GIVE GO GOOD GREAT HATE HAVE HELP HER HERE HIGH HIM HIS HOT HOW HUGE IF IN IS ITS JUST
    KEEP KNOW LAST LEFT LET LIKE LIVE LOOK LOVE LOW MADE MAKE MANY MAY ME MINE MORE MOST MUCH MUST MY NEED NEVER NEW
    NEXT NICE NO NOT NOTE NOW OF OFF OH OLD ON ONE ONLY OPEN OR OUR OUT OVER PAY PLAY PULL PUSH READ REAL RUN SAID SALE
    SAVE SAY SEE SHE SO SOME SOON STAY STOP SUCH SURE TAKE TALK TELL TEN THAN THAT THE THEM THEN THEY THIS TIME TO TODO
    TOO TRY TWO UP USE VERY WAIT WAS WAY WE WELL WENT WERE WHAT WHEN WHO WHY WILL WITH WOW YES YET YOU YOUR AN AS AT BY
    HE IT'S I'M DON'T CAN'T WON'T YOU'RE LETS LET'S THERE
    """.split()  # noqa: SIM905
)


def read_capitals(text: str) -> str:
    """The text with words in capitals in small letters. Abbreviations stay."""
    if not _ANY.search(text):
        return text
    words = _LETTERS.findall(text)
    shouted = len(words) > 1 and text.isupper()
    return _WORD.sub(lambda match: _read(match[1], shouted=shouted), text)


def _read(word: str, *, shouted: bool) -> str:
    if word in _SHOUTED:
        return word.lower()
    if word in _SPELLED or not _VOWEL.search(word):
        return word
    if len(word) >= _SPELLED_FROM or (shouted and len(word) > 3):
        return word.lower()
    return word
