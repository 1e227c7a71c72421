"""URLs, e-mail addresses, file names, versions, handles and hashtags, as a person says them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deployments.text.normalization.number_words import cardinal, digits, spoken_number
from deployments.text.normalization.sign_words import SignWords

_TOP_DOMAINS = (
    "com|org|net|edu|gov|io|ai|dev|app|info|biz|tv|me|co|uk|us|ca|de|fr|es|it|nl|eu|ch|at|be|se|no|dk|fi|pl|pt|br|jp"
    "|cn|in|au|nz|ru|mil|int|xyz|tech|cloud|blog|shop|site|online|news|wiki|local|test|example"
)
_EXTENSIONS = (
    "pdf|docx?|xlsx?|pptx?|txt|md|csv|tsv|json|ya?ml|toml|ini|cfg|conf|log|xml|html?|css|jsx?|tsx?|py|ipynb|java|cpp"
    "|hpp|rs|go|rb|sh|bat|exe|dll|so|zip|tar|gz|tgz|rar|7z|png|jpe?g|gif|svg|webp|bmp|mp3|mp4|wav|flac|ogg|m4a|mov"
    "|avi|mkv|srt|vtt|env|lock|sql|db|iso|dmg|deb|rpm|bin|onnx|safetensors|gguf"
)
_EMAIL = re.compile(r"(?<![\w.@+-])(?:mailto:)?([\w.+-]{1,64})@([\w-]{1,63}(?:\.[\w-]{1,63}){1,5})(?![\w@])")
_URL = re.compile(r"\b(?:https?|ftp|wss?|file|git|ssh)://[^\s<>\"“”{}|\\^`]+|\bwww\.[\w-]+\.[^\s<>\"“”{}|\\^`]+")
_HOST = re.compile(
    rf"(?<![\w.@/\\-])(?:[\w-]{{1,63}}\.){{1,5}}(?:{_TOP_DOMAINS})(?::\d{{2,5}})?(?:/[^\s<>\"“”|\\^`]*)?(?![\w@])"
    r"|\blocalhost:\d{2,5}(?:/[^\s<>\"“”|\\^`]*)?"
)
_ADDRESS = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d{2,5})?(?![\w.]*\d)")
_FILE = re.compile(
    rf"(?<![\w@])(?:~|\.{{1,2}})?/?(?:[\w.+-]{{1,80}}/){{0,8}}[\w+-]*(?:\.[\w+-]+){{0,4}}\.(?:{_EXTENSIONS})\b"
    r"(?!\.?\w)",
    re.I,
)
_PATH = re.compile(r"(?<![\w/.:<])(?:~|\.{1,2})?(?:/[\w.+-]{1,80}){2,12}/?(?!\w)")
_DRIVE = re.compile(r"(?<!\w)([A-Za-z]):((?:\\[\w.+-]{1,80}){1,12})\\?")
_VERSION = re.compile(
    r"(?<![\w.])(?!(?:1\.)?\d{3}\.\d{3}\.\d{4}(?!\d))"  # which is a telephone number
    r"(?:[vV]\.?\s?(?=\d)|([Vv]er(?:sion|\.)\s))?"
    r"(\d{1,5}(?:\.\d{1,5}){2,5}|(?:(?<=[vV])|(?<=[vV]\.))\d{1,5}(?:\.\d{1,5})?)(\+(?!\w))?(?![\w.]*\d)"
)
_HASHTAG = re.compile(r"(?<![\w&/#])#(?=\w*[^\W\d_])(\w{2,100})")
_HANDLE = re.compile(r"(?<![\w@.])@(\w{1,50})(?![@\w]|\.\w)")
_END_MARKS = ".,;:!?'\")]*_>…"
_WORD_BORDER = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
_PART = re.compile(r"\d+|[^\W\d_]+|.", re.S)
_ANY = re.compile(r"\w\.\w|[@/\\#]|:\d|\.\w|\b[vV]\.?\s?\d")
_VOWEL = re.compile("[aeiouyAEIOUY]")
_AS_WORDS = frozenset(
    """
    com co org net edu gov info biz dev app blog shop site news wiki cloud tech online local test example zip tar wav
    log doc bat env lock bin gif java
    """.split()  # noqa: SIM905
)
_SAID = {
    "json": "jason",
    "yaml": "yammel",
    "yml": "yammel",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "txt": "text",
    "docx": "doc X",
    "xlsx": "XLSX",
    "toml": "tommel",
}


@dataclass(frozen=True, slots=True)
class AddressReader:
    """Reads the addresses of a text.

    `words` are the names of signs in the language of the voice. Without them, only the parts of an address that are never
    read aloud, such as `https://` and the query, are left out.
    """

    words: SignWords | None
    english: bool

    def read(self, text: str) -> str:
        """The text with its addresses in words."""
        if not _ANY.search(text):
            return text
        if "@" in text:
            text = _EMAIL.sub(self._email, text)
        if "/" in text or "." in text or ":" in text:
            text = _URL.sub(self._url, text)
            text = _HOST.sub(self._url, text)
        if self.english:
            text = self._names(text)
        if "#" in text:
            text = _HASHTAG.sub(lambda match: _split(match[1]), text)
        if "@" in text and self.words:
            at = self.words.at
            text = _HANDLE.sub(lambda match: f"{at} {_split(match[1])}", text)
        return text

    def _names(self, text: str) -> str:
        """Network addresses, versions, and names of files and folders."""
        if "." in text:
            text = _ADDRESS.sub(lambda match: _network_address(match[0]), text)
            text = _FILE.sub(lambda match: self._spelled(match[0], by_extension=True), text)
        if "." in text or "v" in text.lower():
            text = _VERSION.sub(_version, text)
        if "\\" in text:
            text = _DRIVE.sub(lambda match: f"{match[1]} drive, {self._spelled(match[2][1:])}", text)
        return _PATH.sub(lambda match: self._spelled(match[0].rstrip("/")), text) if "/" in text else text

    def _email(self, match: re.Match[str]) -> str:
        if self.words is None:
            return match[0].removeprefix("mailto:")
        return f"{self._spelled(match[1])} {self.words.at} {self._spelled(match[2], domain=True)}"

    def _url(self, match: re.Match[str]) -> str:
        address = match[0].rstrip(_END_MARKS)
        end = match[0][len(address) :]
        address = re.split(r"[?#]", re.sub(r"^\w+://", "", address), maxsplit=1)[0].rstrip("/")
        address = address.rpartition("@")[2].removeprefix("www.") or address
        if self.words is None:
            return address + end
        host, slash, path = address.partition("/")
        name, _, port = host.partition(":")
        said = self._spelled(name, domain=True) + (f" {self.words.port} {self._number(port)}" if port else "")
        return said + (f" {self.words.slash} {self._spelled(path, by_extension=True)}" if slash else "") + end

    def _spelled(self, name: str, *, domain: bool = False, by_extension: bool = False) -> str:
        """A name with its signs in words."""
        assert self.words
        last = name.rpartition(".")[2].lower() if domain or by_extension else ""
        said = []
        parts = _PART.findall(_WORD_BORDER.sub("\0", name))
        for at, part in enumerate(parts):
            if part == "\0":
                continue
            if part in self.words.signs:
                said.append(self.words.signs[part])
            elif part.isdigit():
                said.append(self._number(part))
            elif part.lower() == last and at == len(parts) - 1 and at:
                said.append(_ending(part))
            elif part.isalnum():
                said.append(part if _VOWEL.search(part) or len(part) > 4 else part.upper())
        return " ".join(said)

    def _number(self, number: str) -> str:
        if not self.english:
            return number
        return digits(number) if len(number) > 4 or number[0] == "0" else cardinal(int(number))


def _ending(name: str) -> str:
    """The name of a domain or of a kind of file: a word, or its letters."""
    low = name.lower()
    if low in _SAID:
        return _SAID[low]
    return low if low in _AS_WORDS or len(low) > 4 else low.upper()


def _split(name: str) -> str:
    """The words of a name in camel case or with underscores."""
    return " ".join(_WORD_BORDER.sub(" ", name.replace("_", " ")).split())


def _network_address(text: str) -> str:
    host, _, port = text.partition(":")
    return " dot ".join(map(digits, host.split("."))) + (f" port {cardinal(int(port))}" if port else "")


def _version(match: re.Match[str]) -> str:
    named = match[0][0] in "vV" and match[1] is None
    said = " point ".join(map(spoken_number, match[2].split("."))) + (" plus" if match[3] else "")
    return f"version {said}" if named else f"{match[1] or ''}{said}"
