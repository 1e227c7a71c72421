"""Every setting of a `serve_config.yaml`, read from the models: key, default, unit, bounds and meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deployments.validation import models_inside
from serve_app.config import AppArguments
from serve_app.config_file import HttpAddress

UNITS = {
    "_seconds_of_audio": "s of audio",
    "_seconds_of_audio_per_key": "s of audio",
    "_bytes_per_s": "bytes/s",
    "_s": "s",
    "_ms": "ms",
    "_bytes": "bytes",
    "_characters": "characters",
    "_percent": "%",
    "_s_per_mb": "s per MB",
    "_s_per_minute": "s per minute",
    "_first_sounds": "usual first sounds",
}
"""What the end of a name says of its unit."""
LOWER, UPPER = {"gt": "over {:g}", "ge": "{:g} or more"}, {"lt": "under {:g}", "le": "{:g} or less"}
MIB = 2**20
INTRODUCTION = """\
# Configuration

`motet config --markdown` made this page from the settings classes; a test holds it current. `motet config` prints the same in
a terminal, and `motet config FILE` checks a file and prints its values with all defaults.

`motet serve` reads `serve_config.yaml`. `http_options` stands at the top of the file, everything else under `args` of the
application. A key in the file replaces a default. An unknown key stops the start and shows the nearest valid name.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key. `bounds` is empty where the type is the only bound; `unit` where there is none."""

    key: str
    default: str
    unit: str
    bounds: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Section:
    """The settings at one place of the file, such as `speech.pieces`."""

    path: str
    meaning: str
    settings: tuple[Setting, ...]


def sections() -> Iterator[Section]:
    """All sections, each before those inside it, and once where several classes share it."""
    found = [*_sections(HttpAddress, "http_options"), *_sections(AppArguments, "args")]
    yield from {section.path: section for section in found}.values()


def unit_of(key: str) -> str:
    """The unit that a name ends with; empty for none."""
    return next((unit for suffix, unit in UNITS.items() if key.endswith(suffix)), "")


def markdown() -> str:
    """The text of `docs/configuration.md`."""
    lines = [INTRODUCTION]
    for section in sections():
        lines += [f"## `{section.path}`", "", section.meaning, ""]
        lines += (
            ["| setting | default | unit | accepted | meaning |", "|---|---|---|---|---|"] if section.settings else []
        )
        lines += [_row(setting) for setting in section.settings]
        lines += [""] if section.settings else []
    return "\n".join(lines).rstrip() + "\n"


def _row(setting: Setting) -> str:
    cells = (f"`{setting.key}`", f"`{setting.default}`", setting.unit, setting.bounds, setting.meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _sections(model: type[BaseModel], path: str) -> Iterator[Section]:
    plain: list[Setting] = []
    inner: list[tuple[str, type[BaseModel]]] = []
    for key, field in model.model_fields.items():
        models = models_inside(field.annotation)
        inner += [(_inner_path(path, key, field, each, many=len(models) > 1), each) for each in models]
        if not models or field.description:
            plain.append(_setting(key, field))
    yield Section(path.removeprefix("args."), _paragraph(model.__doc__), tuple(plain))
    for where, each in inner:
        yield from _sections(each, where)


def _inner_path(path: str, key: str, field: FieldInfo, model: type[BaseModel], *, many: bool) -> str:
    kind = f" (kind: {model.model_fields['kind'].default})" if many else ""
    mark = {True: ".<name>", False: ""}[_is(field, Mapping)] + {True: "[]", False: ""}[_is(field, tuple)]
    return f"{path.split(' ')[0]}.{key}{mark}{kind}"


def _is(field: FieldInfo, container: type) -> bool:
    origin = get_origin(field.annotation)
    return isinstance(origin, type) and issubclass(origin, container)


def _setting(key: str, field: FieldInfo) -> Setting:
    return Setting(key, _default(key, field), unit_of(key), _bounds(field), _paragraph(field.description))


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split())


def _default(key: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "null"
    if key.endswith("_bytes") and value >= MIB:
        return f"{value} ({value / MIB:g} MiB)"
    return json.dumps(value, default=_plain) if not models_inside(field.annotation) else "see below"


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else list(value)


def _bounds(field: FieldInfo) -> str:
    """Such as `1 to 99`, `over 0`, or the words that are accepted."""
    words = [str(word) for word in _words(field.annotation)]
    metadata = [*field.metadata, *_inner_metadata(field.annotation)]
    limits = {name: getattr(each, name) for each in metadata for name in (*LOWER, *UPPER) if hasattr(each, name)}
    if {"ge", "le"} <= limits.keys():
        return f"{limits['ge']:g} to {limits['le']:g}"
    return ", ".join([text.format(limits[name]) for name, text in (LOWER | UPPER).items() if name in limits] + words)


def _words(annotation: Any) -> tuple[Any, ...]:
    """The values of a Literal, also inside a union."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(word for each in get_args(annotation) if get_origin(each) is Literal for word in get_args(each))


def _inner_metadata(annotation: Any) -> list[Any]:
    """Of `Annotated` inside a union, as in `Count | None`; pydantic takes only the outer one apart."""
    fields = [field for each in get_args(annotation) for field in getattr(each, "__metadata__", ())]
    return [limit for field in fields for limit in getattr(field, "metadata", (field,))]
