"""Every use of Ray's private interfaces (Ray 2.60), in one place: a new version of Ray may break these and nothing else.

Ray is imported when a function is called, so this module costs nothing where Ray is not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Deployment
    from ray.serve.handle import DeploymentHandle


def address_of_started_cluster() -> str:
    """What Ray takes "auto" to mean: the address of the cluster that was last started on this machine.

    `ray.init("auto")` would wait for minutes if that cluster has ended. Raises `ConnectionError` if none was started.
    """
    from ray._private import services

    return str(services.get_ray_address_from_environment("auto", None))


def end_unused_processes() -> None:
    """Ends processes that `ray.init` starts with each cluster and a service on one machine does not use: the part of the
    dashboard that reports usage, the autoscaler of machines, and the log monitor. Ray has no settings for them."""
    from ray._private import worker

    node: Any = worker._global_node
    node.kill_dashboard(check_alive=False)
    node.kill_monitor(check_alive=False)
    node.kill_log_monitor(check_alive=False)


def serve_client() -> Any:
    """The client of Ray Serve in the connected cluster, or None if Ray Serve does not run there. The public `serve.status()`
    has neither its HTTP address nor the route prefixes of its applications."""
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False)


def with_version(deployment: Deployment, version: str) -> Deployment:
    """The deployment with a version. Without one Ray Serve takes each deployment for a new one, and a change of one model
    replaces the replicas of all. The public `version` option is deprecated."""
    return deployment.options(version=version, _internal=True)


def by_reference(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    """The handle, with answers that stay in the object store. As an argument of another call such an answer travels as a
    reference, so the caller never holds its bytes."""
    return handle.options(_by_reference=True)


async def replica_answers(handle: DeploymentHandle[Any], method: str) -> list[Any]:
    """The pending answers of all replicas to a method without arguments; each has `get_async`. The public `results_async`
    waits for all replicas, including frozen ones."""
    answers: list[Any] = await handle.broadcast(method)._fetch_replica_results_async()
    return answers
