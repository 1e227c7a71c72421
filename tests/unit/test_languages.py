"""Names and codes of languages."""

from __future__ import annotations

from deployments.text.languages import NAMES, code_of


def test_every_name_has_its_code_and_others_stay_what_they_are() -> None:
    assert {code_of(name): name for name in NAMES.values()} == NAMES
    assert code_of("german") == "de"
    assert (code_of("cy"), code_of(""), code_of(None)) == ("cy", None, None)
