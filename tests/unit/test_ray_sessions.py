"""Which folders of ended Ray clusters are removed."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.ray_sessions import KEPT, LEAST_AGE_S, remove_old

NOW_S = 1_000_000.0


def session(folder: Path, number: int, age_s: float) -> Path:
    path = folder / f"session_2026-01-{number:02d}_00-00-00_000000_1"
    (path / "logs").mkdir(parents=True)
    (path / "logs" / "raylet.out").write_text("said")
    os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return path


def test_old_sessions_go_except_the_last_ones_and_those_in_use(tmp_path: Path) -> None:
    old = [session(tmp_path, number, 10 * LEAST_AGE_S) for number in range(1, KEPT + 5)]
    young = session(tmp_path, 20, 1.0)
    (tmp_path / "session_latest").symlink_to(old[0])
    (tmp_path / "other").mkdir()
    remove_old(tmp_path, lambda: iter([f"raylet --session-dir={old[1]}", "sleep"]), NOW_S)
    gone = [path for path in old if not path.exists()]
    assert gone == [old[0], *old[2:4]]
    assert young.exists()
    assert (tmp_path / "other").exists()


def test_a_few_sessions_stay(tmp_path: Path) -> None:
    old = [session(tmp_path, number, 10 * LEAST_AGE_S) for number in range(1, KEPT + 1)]
    remove_old(tmp_path, lambda: iter([]), NOW_S)
    assert all(path.exists() for path in old)
    remove_old(tmp_path / "not there", lambda: iter([]), NOW_S)
