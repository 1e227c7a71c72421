"""What each process that Ray starts for the service imports first (`profiles.ONE_MACHINE`)."""

from __future__ import annotations

from serve_app.workers import serve_imports, slow_timer

__all__ = ["serve_imports", "slow_timer"]

slow_timer.start()
