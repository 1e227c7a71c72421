"""The program `motet`. It imports next to nothing itself: Ctrl-C ends it quietly while the rest is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from serve_app.cli.interruption import end_without_further_interruptions, hide_interruptions, is_interruption

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and ends the program: 0 is success, 1 a failure, 2 a wrong call, 3 failed rows, 130 Ctrl-C."""
    hide_interruptions()
    try:
        try:
            _run(arguments)
        except SystemExit as left:
            if left.code == INTERRUPTED:
                end_without_further_interruptions()
            raise
        except Exception as error:
            if is_interruption(error):  # such as the ImportError of an extension whose start was interrupted
                raise KeyboardInterrupt from error
            raise
    except KeyboardInterrupt:
        end_without_further_interruptions()
        sys.exit(INTERRUPTED)


def _run(arguments: Sequence[str] | None) -> None:
    from deployments.errors import MotetError
    from serve_app.cli.command_group import app

    try:
        app(arguments, prog_name="motet")
    except (MotetError, OSError) as error:
        print(f"motet: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
