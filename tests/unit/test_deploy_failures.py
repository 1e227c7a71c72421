"""A service that fails to start reports why its replicas failed and what to do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.deploy_failures import LONGEST_CAUSE, cause_of, troubles_of

FAILED = """The deployment failed to start 3 times in a row. See controller logs for details. Error:
\x1b[36mray::ServeReplica:motet:tone@cpu.initialize_and_get_metadata()\x1b[39m (pid=1, ip=127.0.0.1)
  File "replica.py", line 1, in _loaded
    raise fail("not_found", "There is no folder /nowhere.", "Check the path.")
deployments.errors.MotetError: There is no folder /nowhere. Check the path.

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "replica.py", line 2, in __init__
    raise RuntimeError(cause) from error
RuntimeError: Model 'tone' cannot be loaded. There is no folder /nowhere.
Check the path."""


def told(message: str = "", **deployments: tuple[str, str]) -> Any:
    """What Ray Serve tells of an application: its message, and status and message of each deployment."""
    each = {name: SimpleNamespace(status=status, message=said) for name, (status, said) in deployments.items()}
    return SimpleNamespace(message=message, deployments=each)


def test_the_cause_is_what_the_constructor_raised() -> None:
    there = told(
        "Failed to update the deployments ['tone'].",
        tone=("DEPLOY_FAILED", FAILED),
        noise=("HEALTHY", ""),
        gateway=("UPDATING", ""),
    )
    said = "tone: RuntimeError: Model 'tone' cannot be loaded. There is no folder /nowhere.\nCheck the path."
    assert cause_of(there) == said


def test_deployments_that_are_up_or_say_nothing_are_no_trouble() -> None:
    there = told(one=("HEALTHY", "was ill"), two=("UPDATING", ""), three=("UNHEALTHY", "It does not answer."))
    assert list(troubles_of(there)) == ["three: It does not answer."]


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("Traceback (most recent call last):\n  File\nValueError: no such thing", "ValueError: no such thing"),
        ("\n".join(str(n) for n in range(9)), "4\n5\n6\n7\n8"),
        ("E" * 3000, "E" * LONGEST_CAUSE),
    ],
)
def test_without_a_deployments_message_the_applications_own_is_told(message: str, cause: str) -> None:
    assert cause_of(told(message, gateway=("UPDATING", ""))) == cause
