"""The names of the signs in addresses, in the languages of our voices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SignWords:
    """What a language calls the signs of an address."""

    dot: str
    at: str
    slash: str
    dash: str
    underscore: str
    plus: str
    port: str
    signs: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        signs = {".": self.dot, "/": self.slash, "\\": self.slash, "-": self.dash, "_": self.underscore, "+": self.plus}
        object.__setattr__(self, "signs", signs)


SIGN_WORDS: Mapping[str, SignWords] = {
    "en": SignWords("dot", "at", "slash", "dash", "underscore", "plus", "port"),
    "fr": SignWords("point", "arobase", "slash", "tiret", "tiret bas", "plus", "port"),
    "es": SignWords("punto", "arroba", "barra", "guion", "guion bajo", "más", "puerto"),
    "it": SignWords("punto", "chiocciola", "barra", "trattino", "trattino basso", "più", "porta"),
    "pt": SignWords("ponto", "arroba", "barra", "hífen", "sublinhado", "mais", "porta"),
    "de": SignWords("Punkt", "at", "Schrägstrich", "Bindestrich", "Unterstrich", "plus", "Port"),
    "nl": SignWords("punt", "apenstaartje", "slash", "streepje", "underscore", "plus", "poort"),
}
"""By the language's code. Signs of other languages are left to the model."""
