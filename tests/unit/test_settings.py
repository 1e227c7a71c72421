"""Each setting has a meaning and a unit, and the page about them is current. (`test_layout.py`: it is defined once.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.cli.settings_reference import Setting, markdown, sections, unit_of

ROOT = Path(__file__).parents[2]
DIMENSIONLESS = {
    "max_padding_share", "max_wrong_words_share", "backlog_cost", "short_cost", "cpus", "gpus", "share", "cost", "low_mark", "high_mark", "first_speed",
    "threshold", "characters_per_second", "max_speed", "listeners_share", "sampled_share",
}  # fmt: skip
"""Numbers with a fraction that are no time, length or size."""
SETTINGS = [
    pytest.param(setting, id=f"{section.path}.{setting.key}") for section in sections() for setting in section.settings
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_has_a_meaning_and_a_unit(setting: Setting) -> None:
    assert setting.meaning.endswith(".")
    assert "_seconds" not in setting.key.replace("_seconds_of_audio", "")
    if "." in setting.default and setting.default[0].isdigit():
        assert unit_of(setting.key) or setting.key in DIMENSIONLESS


def test_the_page_about_settings_is_current() -> None:
    """`motet config --markdown > docs/configuration.md` makes it so."""
    assert (ROOT / "docs" / "configuration.md").read_text() == markdown()
