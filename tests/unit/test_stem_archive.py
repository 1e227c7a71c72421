"""Several stems are sent as one ZIP file, the first while the others are still being made."""

from __future__ import annotations

import io
import zipfile

from serve_app.gateway.stem_archive import StemArchive

NAMES = {"speech": "speech.wav", "music": "music.wav", "noise": "noise.wav"}


def test_every_stem_is_whole() -> None:
    archive = StemArchive(NAMES)
    out = b""
    for number in range(50):
        for stem in NAMES:
            out += archive.add(stem, f"{stem}{number};".encode())
    out += b"".join(archive.rest({"gaps.json": "[]"}))
    archive.close()
    with zipfile.ZipFile(io.BytesIO(out)) as read:
        assert read.testzip() is None
        assert read.namelist() == [*NAMES.values(), "gaps.json"]
        assert read.read("gaps.json") == b"[]"
        for stem, name in NAMES.items():
            assert read.read(name).decode() == "".join(f"{stem}{number};" for number in range(50))


def test_the_first_stem_leaves_at_once() -> None:
    archive = StemArchive(NAMES)
    assert b"first bytes" in archive.add("speech", b"first bytes")
    assert archive.add("music", b"wait") == b""
    archive.close()
    archive.close()
