"""Every use of Ray's private interfaces (Ray 2.60), in one place: a new version of Ray may break these and nothing else.

Ray is imported when a function is called, so this module costs nothing where Ray is not used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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


def metrics_port(port: int) -> dict[str, Any]:
    """The argument of `ray.init` for the port of this machine's metrics. Without one Ray chooses another at each start."""
    return {"_metrics_export_port": port}


def metrics_port_of_this_machine() -> int | None:
    """The port at which the machine that this process started shows its metrics; None if it joined another's cluster."""
    from ray._private import worker

    node: Any = worker._global_node
    return int(node.metrics_export_port) if node is not None and node.is_head() else None


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


async def replica_answers(handle: DeploymentHandle[Any], method: str, *arguments: Any) -> list[Any]:
    """The pending answers of all replicas to a method; each has `get_async`. The public `results_async` waits for all
    replicas, including frozen ones."""
    answers: list[Any] = await handle.broadcast(method, *arguments)._fetch_replica_results_async()
    return answers


async def answer_of_replica(
    handle: DeploymentHandle[Any], replica_id: str, method: str, *arguments: Any, **named: Any
) -> Any:
    """One replica's answer to a method. Raises `ReplicaUnavailableError` if the deployment has no running replica of that id,
    and what Ray raises if it is lost meanwhile.

    Ray Serve offers only a choice by hash of a session's id, with which a router of Ray 2.60 leaves one of two requests that
    arrive together waiting without an end.
    """
    from ray.serve._private.request_router.common import PendingRequest
    from ray.serve.exceptions import ReplicaUnavailableError

    call = getattr(handle, method)
    router, metadata = call._init_router_and_get_metadata()

    async def send() -> Any:
        await router._asyncio_router._request_router_initialized.wait()
        for known, replica in router._asyncio_router.request_router.curr_replicas.items():
            if known.unique_id == replica_id:
                request = PendingRequest(args=[*arguments], kwargs=named, metadata=metadata, resolved=True)
                return replica.try_send_request(request, with_rejection=False)
        raise ReplicaUnavailableError(replica_id)

    # The router runs on a thread of its own.
    sent = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(send(), router.event_loop))
    try:
        return await sent.get_async()
    except asyncio.CancelledError:
        sent.cancel()
        raise


def replica_ids(handle: DeploymentHandle[Any]) -> list[str]:
    """The ids of the running replicas of a deployment, as far as this process knows them."""
    router: Any = handle._init_router_and_get_metadata()[0]
    chosen = router._asyncio_router._request_router
    return [known.unique_id for known in chosen.curr_replicas] if chosen is not None else []


def handle_of(application: str, deployment: str) -> DeploymentHandle[Any]:
    """The handle of a deployment, at once: the public function asks the controller whether the deployment is there, which
    blocks an event loop."""
    from ray import serve

    found: DeploymentHandle[Any] = serve.get_deployment_handle(deployment, application, _check_exists=False)
    return found


def store_value(namespace: str, key: str, value: bytes) -> None:
    """Keeps a value in the key-value store of Ray's GCS, which has no public interface."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(key, value, overwrite=True, namespace=namespace)


def stored_values(namespace: str, prefix: str) -> dict[str, bytes]:
    """The values whose keys begin with a prefix."""
    from ray.experimental import internal_kv

    keys: list[bytes] = internal_kv._internal_kv_list(prefix, namespace=namespace)
    found = {key.decode(): internal_kv._internal_kv_get(key, namespace=namespace) for key in keys}
    return {key: value for key, value in found.items() if value is not None}


def remove_value(namespace: str, key: str) -> None:
    """Removes a value."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_del(key, namespace=namespace)


def deployment_calls(application: str, deployment: str) -> Callable[..., list[Any]]:
    """A function that calls a method of all replicas of a deployment, with a time limit in seconds and the arguments of the
    method, and returns their answers. It raises what Ray raises for a replica that does not answer. In the throughput profile
    a public handle works only on an event loop; this one has a thread."""
    from ray import serve

    handle: Any = serve.get_deployment_handle(deployment, application)
    handle._init(_run_router_in_separate_loop=True)
    return lambda method, timeout_s, *given: list(handle.broadcast(method, *given).results(timeout_s=timeout_s))


def undrained_proxies(timeout_s: float) -> int:
    """The number of Ray Serve's HTTP proxies that have not sent all their answers. They report themselves as draining from
    now on; Ray Serve has no public call for it. Raises what Ray raises for one that does not answer."""
    import ray
    from ray.serve._private.constants import SERVE_NAMESPACE, SERVE_PROXY_NAME

    named = ray.util.list_named_actors(all_namespaces=True)
    names = [each["name"] for each in named if each["namespace"] == SERVE_NAMESPACE]
    proxies: list[Any] = [ray.get_actor(name, SERVE_NAMESPACE) for name in names if name.startswith(SERVE_PROXY_NAME)]
    ray.get([proxy.update_draining.remote(True) for proxy in proxies], timeout=timeout_s)
    return ray.get([proxy.is_drained.remote() for proxy in proxies], timeout=timeout_s).count(False)


def replicas_listen_on_loopback() -> None:
    """Makes the gRPC servers of this process's replicas listen at loopback, for a service on one machine. Ray Serve binds
    them to all addresses and has no setting for it; each of Ray's other servers listens at the address of its node."""
    from ray.serve._private import replica

    module: Any = replica
    add = module.add_port_to_grpc_server
    module.add_port_to_grpc_server = lambda server, address: add(server, address.replace("[::]", "127.0.0.1"))


class ControllerWork:
    """The work of Ray Serve's controller for one deployment, in this process and without its replicas: reports of gateways
    for autoscaling, decisions, and the list of replicas that listeners get when it changes. A benchmark measures it."""

    def __init__(self, replicas: int, config: Any) -> None:
        """`config` is the deployment's `AutoscalingConfig`."""
        from ray.serve._private import autoscaling_state, common
        from ray.serve._private.long_poll import LongPollHost

        state: Any = autoscaling_state
        self._common: Any = common
        self._deployment = common.DeploymentID("model@cpu", "limits")
        self._replicas = [common.ReplicaID(f"{number:08x}", self._deployment) for number in range(replicas)]
        self._running_key = state.RUNNING_REQUESTS_KEY
        self._state: Any = state.DeploymentAutoscalingState(self._deployment)
        self._state._config, self._state._policy_state = config, {}
        self._state._policy = state._apply_autoscaling_config(state._resolve_policy_callable(config.policy))
        self._state.update_running_replica_ids(self._replicas)
        self._host: Any = LongPollHost()
        self.change()

    def _series(self, now_s: float, every_s: float = 2.0, count: int = 6) -> list[Any]:
        return [self._common.TimeStampedValue(now_s - every_s * (count - each), 1.0 + each) for each in range(count)]

    def report_of_replicas(self, now_s: float) -> None:
        """Takes a report of each replica."""
        for replica in self._replicas:
            metrics = {self._running_key: self._series(now_s)}
            self._state.record_request_metrics_for_replica(self._common.ReplicaMetricReport(replica, metrics, now_s))

    def report_of_gateway(self, gateway: int, now_s: float) -> bytes:
        """A gateway's report as it is sent."""
        from ray.serve._private.autoscaling_metrics_codec import encode

        running = {replica.to_full_id_str(): self._series(now_s) for replica in self._replicas}
        report = self._common.HandleMetricReport(
            self._deployment,
            f"handle-{gateway:08x}",
            f"{gateway:032x}",
            self._common.DeploymentHandleSource.REPLICA,
            self._series(now_s),
            {self._running_key: running},
            now_s,
        )
        return bytes(encode(report))

    def take(self, report: bytes) -> None:
        """Takes a gateway's report."""
        from ray.serve._private.autoscaling_metrics_codec import decode_handle_flat

        self._state.record_columnar_metrics_for_handle(decode_handle_flat(report))

    def decide(self) -> int:
        """The number of replicas that the policy wants."""
        return int(self._state.get_decision_num_replicas(len(self._replicas)))

    def change(self) -> None:
        """The list of replicas changes."""
        names = (replica.to_full_id_str() for replica in self._replicas)
        running = [
            self._common.RunningReplicaInfo(replica, "0" * 56, "10.0.0.1", None, f"SERVE_REPLICA::{name}", 64)
            for replica, name in zip(self._replicas, names, strict=True)
        ]
        targets = self._common.DeploymentTargetInfo(is_available=True, running_replicas=running)
        self._host.notify_changed({"targets": targets})

    async def spread_change(self, listeners: int) -> int:
        """Changes the list while some listen; each gets it as bytes. Returns their number for one listener."""
        from ray import cloudpickle  # which writes the answers of actors

        write: Any = cloudpickle.dumps
        known = self._host.snapshot_ids["targets"]
        waiting = [asyncio.ensure_future(self._host.listen_for_change({"targets": known})) for _ in range(listeners)]
        await asyncio.sleep(0)
        self.change()
        return [len(write(await each)) for each in waiting][-1]
