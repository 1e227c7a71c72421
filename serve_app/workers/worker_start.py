"""What each process that Ray starts for the service imports first (`profiles.ONE_MACHINE`)."""

from __future__ import annotations

from cluster import ray_private
from serve_app.workers import serve_imports, slow_timer

__all__ = ["serve_imports", "slow_timer"]

ray_private.replicas_listen_on_loopback()
slow_timer.start()
