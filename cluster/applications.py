"""Names of Ray Serve's applications: the service's own, and one for each model that was loaded into it.

A loaded model is an application of its own, so that loading and unloading touch nothing else. Its name begins with that of
the service.
"""

from __future__ import annotations

MARK = "+"
"""Between the name of the service and that of the model, which does not have it."""


def loaded_application(service: str, model: str) -> str:
    """The application of a model that was loaded into a service."""
    return f"{service}{MARK}{model}"


def service_of(application: str) -> str:
    """The service to which an application belongs."""
    return application.partition(MARK)[0]


def is_loaded_into(service: str, application: str) -> bool:
    """Whether an application is a model that was loaded into a service."""
    return application.startswith(f"{service}{MARK}")
