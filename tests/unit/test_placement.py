"""Requests go to the placement that answers first and avoid dead ones, and every stream is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import pytest
from grpc.aio import UsageError
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError

from cluster import ray_private
from cluster.demand import AutoscalingSettings
from cluster.hardware import CpuClass, CudaClass, MlxClass
from cluster.models import Model, Placement
from deployments.errors import Failure, MotetError
from deployments.settings import HealthSettings, SpilloverSettings
from serve_app.config import AppConfig
from serve_app.gateway.deployment import directory_of
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.routing.placement import LOST, RETURN_SPACING_S, START_S, NoAnswer, PlacedModel
from tests.unit.fakes import FakeHandle

CONFIG = AppConfig(
    models={
        "echo": Model(engine="identity", aliases=("mirror",), placements=(Placement(hardware=MlxClass()), Placement())),
    }
)
BUSY = BackPressureError(num_queued_requests=3, max_queued_requests=3)


class Replica:
    """Answers with its own name, or with trouble. One that is `gone` keeps everyone waiting, as Ray Serve's router does."""

    def __init__(self, name: str, trouble: BaseException | None = None, after: int = 0) -> None:
        self.name = name
        self.trouble = trouble
        self.after = after
        self.gone = asyncio.Event()
        self.back = asyncio.Event()
        self.asked = asyncio.Event()

    async def report(self) -> str:
        self.asked.set()
        if self.trouble or self.gone.is_set():
            await self.back.wait()
        return self.name

    async def hesitant(self) -> AsyncIterator[str]:
        """Busy until it was asked whether it lives."""
        await self.asked.wait()
        yield self.name

    async def ask(self) -> str:
        if self.gone.is_set():
            await self.back.wait()
        if self.trouble:
            raise self.trouble
        return self.name

    async def stream(self) -> AsyncIterator[str]:
        if self.gone.is_set():
            await self.back.wait()
        for number in range(3):
            if self.trouble and number == self.after:
                raise self.trouble
            yield f"{self.name}{number}"


def directory(mlx: Replica, cpu: Replica) -> tuple[ModelDirectory, dict[str, FakeHandle]]:
    handles = {"mlx": FakeHandle(mlx), "cpu": FakeHandle(cpu)}
    return directory_of(CONFIG, {"echo": cast("dict[str, Any]", handles)}), handles


async def test_the_first_placement_answers() -> None:
    models, _ = directory(Replica("mlx"), Replica("cpu"))
    assert await models.call("echo", "ask") == "mlx"
    assert [item async for item in models.stream("echo", "stream")] == ["mlx0", "mlx1", "mlx2"]


async def test_a_request_that_is_to_go_elsewhere_does_if_there_is_an_elsewhere() -> None:
    models, _ = directory(Replica("mlx"), Replica("cpu"))
    first = models.placements("echo")[0].name
    assert [item async for item in models.stream("echo", "stream", besides=first)] == ["cpu0", "cpu1", "cpu2"]
    dead, _ = directory(Replica("mlx"), Replica("cpu", RayActorError()))
    assert [item async for item in dead.stream("echo", "stream", besides=first)] == ["mlx0", "mlx1", "mlx2"]


TROUBLES = pytest.mark.parametrize("trouble", [RayActorError(), BUSY], ids=["dead", "busy"])


@TROUBLES
async def test_trouble_of_a_call_moves_on(trouble: Exception) -> None:
    models, _ = directory(Replica("mlx", trouble), Replica("cpu"))
    assert await models.call("echo", "ask") == "cpu"


@TROUBLES
async def test_trouble_before_the_first_answer_moves_on(trouble: Exception) -> None:
    models, handles = directory(Replica("mlx", trouble), Replica("cpu"))
    assert [item async for item in models.stream("echo", "stream")] == ["cpu0", "cpu1", "cpu2"]
    assert handles["mlx"].answers[0].cancelled
    assert not handles["cpu"].answers[0].cancelled


async def test_who_waits_for_a_placement_without_replicas_goes_elsewhere() -> None:
    mlx = Replica("mlx")
    models, handles = directory(mlx, Replica("cpu"))
    mlx.gone.set()
    assert await models.call("echo", "ask") == "cpu"
    assert [item async for item in models.stream("echo", "stream")] == ["cpu0", "cpu1", "cpu2"]
    # The second did not even try, and there was one question for both.
    assert [name for name, _ in handles["mlx"].calls] == ["ask", "report"]


async def test_a_call_that_went_elsewhere_is_cancelled_where_it_waited() -> None:
    mlx = Replica("mlx")
    models, handles = directory(mlx, Replica("cpu"))
    mlx.gone.set()
    assert await models.call("echo", "ask") == "cpu"
    asked, *_ = handles["mlx"].single_answers
    assert asked.cancelled  # otherwise a replica that is back would work for nobody
    assert not any(answer.cancelled for answer in handles["cpu"].single_answers)


async def test_a_placement_that_is_back_is_used_again_and_what_it_took_before_is_forgotten() -> None:
    mlx = Replica("mlx")
    models, _ = directory(mlx, Replica("cpu"))
    [item async for item in models.stream("echo", "stream")]
    mlx.gone.set()
    assert await models.call("echo", "ask") == "cpu"
    first = next(placed for placed in models.placements("echo") if placed.kind == "mlx")
    assert [placed.alive for placed in models.placements("echo")] == [True, False]
    mlx.gone.clear()
    mlx.back.set()
    await asyncio.wait_for(first._start_check(), 5)
    assert all(placed.alive for placed in models.placements("echo"))
    assert first.first_answer_s is None
    assert models.placements("echo")[0] is first


async def test_the_last_placement_left_is_waited_for() -> None:
    mlx, cpu = Replica("mlx"), Replica("cpu")
    models, _ = directory(mlx, cpu)
    mlx.gone.set()
    cpu.gone.set()
    waiting = asyncio.create_task(models.call("echo", "ask"))
    await asyncio.wait_for(mlx.asked.wait(), 5)
    cpu.gone.clear()
    cpu.back.set()
    assert await asyncio.wait_for(waiting, 5) == "cpu"


async def test_a_busy_placement_that_lives_is_waited_for() -> None:
    models, handles = directory(Replica("mlx"), Replica("cpu"))
    assert [item async for item in models.stream("echo", "hesitant")] == ["mlx"]
    assert handles["mlx"].calls[-1][0] == "report"
    assert not handles["cpu"].calls


async def test_a_text_stays_with_the_placement_that_began_it() -> None:
    class Ticket:
        placement = "echo@cpu"
        silent = True

    ticket, mlx, cpu = Ticket(), Replica("mlx"), Replica("cpu")
    models, _ = directory(mlx, cpu)
    assert await anext(models.stream("echo", "stream", ticket=ticket)) == "cpu0"
    cpu.trouble = RayActorError()
    assert await anext(models.stream("echo", "stream", ticket=ticket)) == "mlx0"
    assert ticket.placement == "echo@mlx"


async def test_trouble_after_the_first_answer_is_told() -> None:
    models, _ = directory(Replica("mlx", RayActorError(), after=1), Replica("cpu"))
    heard = []
    with pytest.raises(MotetError, match="no replica that answers"):
        async for item in models.stream("echo", "stream"):
            heard.append(item)
    assert heard == ["mlx0"]


@pytest.mark.parametrize(("trouble", "kind"), [(RayActorError(), "unavailable"), (BUSY, "overloaded")])
async def test_when_nobody_answers_the_reason_is_told(trouble: Exception, kind: str) -> None:
    models, _ = directory(Replica("mlx", trouble), Replica("cpu", trouble))
    with pytest.raises(MotetError) as caught:
        await models.call("echo", "ask")
    assert caught.value.failure.kind == kind
    with pytest.raises(MotetError):
        [item async for item in models.stream("echo", "stream")]


async def test_a_failure_of_the_engine_is_not_tried_elsewhere() -> None:
    class Failing:
        async def stream(self) -> AsyncIterator[Failure]:
            yield Failure("engine", "It broke.")

    models, handles = directory(cast("Replica", Failing()), Replica("cpu"))
    with pytest.raises(MotetError, match="It broke"):
        [item async for item in models.stream("echo", "stream")]
    assert not handles["cpu"].calls


async def test_a_stream_that_is_left_is_cancelled_and_one_that_ends_is_not() -> None:
    models, handles = directory(Replica("mlx"), Replica("cpu"))
    stream = models.stream("echo", "stream")
    assert await anext(stream) == "mlx0"
    assert models.placements("echo")[0].kind == "cpu" or models.placements("echo")[0].under_way == 1
    await stream.aclose()
    assert handles["mlx"].answers[0].cancelled
    [item async for item in models.stream("echo", "stream")]
    assert not handles["mlx"].answers[-1].cancelled
    assert all(placed.under_way == 0 for placed in models.placements("echo"))


async def test_the_faster_placement_is_preferred_once_known() -> None:
    times = {"slow": iter([0.0, 9.0]), "fast": iter([0.0, 0.1])}
    placed = {
        name: PlacedModel(
            "m",
            name,
            cast("Any", FakeHandle(Replica(name))),
            SpilloverSettings(),
            HealthSettings(),
            clock=partial(next, ticks),
        )
        for name, ticks in times.items()
    }
    for model in placed.values():
        [item async for item in model.stream("stream", last=True)]
    assert placed["fast"].expected_s(1.0) < placed["slow"].expected_s(1.0)
    with placed["fast"].request(), placed["fast"].request():
        assert placed["fast"].expected_s(1.0) == pytest.approx(0.3)


def test_a_placement_that_has_not_answered_yet_is_tried_when_the_first_is_busy() -> None:
    models, _ = directory(Replica("mlx"), Replica("cpu"))
    assert [placed.kind for placed in models.placements("echo")] == ["mlx", "cpu"]
    with models.placements("echo")[0].request():
        assert [placed.kind for placed in models.placements("echo")] == ["cpu", "mlx"]


@pytest.mark.parametrize("name", ["echo", "mirror"])
def test_models_are_found_by_name_and_alias(name: str) -> None:
    models, _ = directory(Replica("mlx"), Replica("cpu"))
    assert models.resolve(name, "separation") == "echo"


@pytest.mark.parametrize(("name", "task"), [("ecco", "separation"), ("echo", "speech")])
def test_what_does_not_exist_or_fit_is_not_found(name: str, task: str) -> None:
    models, _ = directory(Replica("mlx"), Replica("cpu"))
    with pytest.raises(MotetError) as caught:
        models.resolve(name, task)
    assert caught.value.failure.param == "model"


def test_a_cpu_placement_is_the_default() -> None:
    assert Placement().hardware == CpuClass()


def refused() -> Exception:
    """A replica's refusal as it comes out of Ray."""
    error = MotetError(Failure("overloaded", "The memory is full.", "Try again.", code="memory_full"))
    wrapped: Exception = RayTaskError("speak", "a traceback", error).as_instanceof_cause()  # type: ignore[no-untyped-call]
    return wrapped


async def test_a_replica_without_room_is_passed_over() -> None:
    models, _ = directory(Replica("mlx", refused()), Replica("cpu"))
    assert [item async for item in models.stream("echo", "stream")] == ["cpu0", "cpu1", "cpu2"]


async def test_where_no_replica_has_room_the_client_reads_why() -> None:
    models, _ = directory(Replica("mlx", refused()), Replica("cpu", refused()))
    with pytest.raises(MotetError, match="memory is full") as caught:
        _ = [item async for item in models.stream("echo", "stream")]
    assert caught.value.failure.code == "memory_full"


async def test_what_a_placement_takes_is_counted_for_each_request_ahead() -> None:
    """Four requests at once that take four seconds together are as fast as one that takes one."""
    handle = cast("Any", FakeHandle(Replica("mlx")))
    placed = PlacedModel(
        "m", "mlx", handle, SpilloverSettings(), HealthSettings(), clock=partial(next, iter([0.0, 4.0]))
    )
    with placed.request(), placed.request(), placed.request():
        [item async for item in placed.stream("stream", last=True)]
        assert placed.expected_s(9.0) == pytest.approx(4.0)
    assert placed.expected_s(9.0) == pytest.approx(1.0)


class Lost(Replica):
    """One of whose life nobody hears but by its answers to others."""

    async def report(self) -> str:
        await asyncio.Event().wait()
        return self.name


async def ask_once(placed: PlacedModel, method: str) -> None:
    if method == "stream":
        assert [item async for item in placed.stream("stream", last=True)] == ["mlx0", "mlx1", "mlx2"]
    else:
        assert await placed.call(method, last=True) == "mlx"


@pytest.mark.parametrize("method", ["ask", "stream"])
async def test_an_answer_shows_a_replica_lives_when_it_was_asked_after_the_doubt(method: str) -> None:
    """What the lost replica was asked before may still be answered, and says nothing of whether another came."""
    replica, now = Lost("mlx"), [0.0]
    placed = PlacedModel(
        "m", "mlx", cast("Any", FakeHandle(replica)), SpilloverSettings(), HealthSettings(), clock=lambda: now[0]
    )
    replica.gone.set()
    before = asyncio.create_task(ask_once(placed, method))
    await asyncio.sleep(0)
    now[0] = 1.0
    placed.suspect()
    replica.gone.clear()
    replica.back.set()
    await asyncio.wait_for(before, 5)
    alive = [placed.alive]
    await asyncio.wait_for(ask_once(placed, method), 5)  # at the very moment of the doubt, as the clock has it
    assert [*alive, placed.alive] == [False, True]
    placed._start_check().cancel()


async def test_what_a_stream_waited_for_a_lost_replica_says_nothing_of_the_next_answer() -> None:
    replica, now = Lost("mlx"), [0.0]
    placed = PlacedModel(
        "m", "mlx", cast("Any", FakeHandle(replica)), SpilloverSettings(), HealthSettings(), clock=lambda: now[0]
    )
    placed.suspect()
    replica.gone.set()
    waiting = asyncio.create_task(ask_once(placed, "stream"))
    await asyncio.sleep(0)
    now[0] = 60.0
    replica.back.set()
    await asyncio.wait_for(waiting, 5)
    assert placed.alive and placed.first_answer_s is None
    placed._start_check().cancel()


QUICK = SpilloverSettings(silent_s=0.01, life_sign_s=0.01, last_life_sign_s=0.01, ask_again_s=0.01)


@pytest.mark.parametrize("lives", [True, False])
async def test_a_silent_replica_is_waited_for_only_if_it_lives(lives: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other replicas of its placement answer, which says nothing of this one."""
    answered, reports = asyncio.Event(), 0

    async def answer_of_replica(handle: Any, replica_id: str, method: str) -> str:
        nonlocal reports
        reports += method == "report"
        if reports == 3:
            answered.set()
        if method == "ask" or not lives:
            await answered.wait()
        return f"{replica_id} {method}"

    monkeypatch.setattr(ray_private, "answer_of_replica", answer_of_replica)
    placed = PlacedModel("m", "cpu", cast("Any", FakeHandle(Replica("cpu"))), QUICK, HealthSettings())
    call = placed.call_replica("cpu-2", "ask")
    if lives:
        assert await asyncio.wait_for(call, 5) == "cpu-2 ask"
        assert reports == 3
    else:
        with pytest.raises(LOST, match="cpu-2"):
            await asyncio.wait_for(call, 5)


def alone_with(replica: Any) -> tuple[ModelDirectory, PlacedModel]:
    """A model with one placement."""
    config = AppConfig(models={"echo": Model(engine="identity")}, spillover=QUICK)
    models = directory_of(config, {"echo": cast("dict[str, Any]", {"cpu": FakeHandle(replica)})})
    return models, models.placements("echo")[0]


class Killed:
    """A replica that is gone. A request, and every question, raises what Ray raises then."""

    def __init__(self, trouble: Exception) -> None:
        self.trouble = trouble

    async def report(self) -> str:
        raise self.trouble

    async def ask(self) -> str:
        raise self.trouble

    async def stream(self) -> AsyncIterator[str]:
        yield "half"
        raise self.trouble


@pytest.mark.parametrize("trouble", [RayActorError(), UsageError("Channel is closed.")])
async def test_a_request_whose_replica_was_killed_learns_when_the_next_one_is_expected(trouble: Exception) -> None:
    for begun in (False, True):
        models, placed = alone_with(Killed(trouble))
        with pytest.raises(MotetError) as caught:
            if begun:
                [item async for item in models.stream("echo", "stream")]
            else:
                await models.call("echo", "ask")
        assert caught.value.failure.kind == "unavailable"
        assert caught.value.failure.retry_after_s == pytest.approx(START_S, abs=1.0)
        assert placed._check is not None
        placed._check.cancel()


async def test_a_request_whose_replica_was_killed_comes_back_at_once_if_another_one_answers() -> None:
    killed = Replica("cpu", RayActorError())
    killed.back.set()  # the report is another replica's
    models, _ = alone_with(killed)
    with pytest.raises(MotetError) as caught:
        await models.call("echo", "ask")
    assert caught.value.failure.retry_after_s is None


class Frozen(Replica):
    """A replica that is there and does not answer anything while it is `gone`, as one does that was sent SIGSTOP."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked_again = asyncio.Event()

    async def report(self) -> str:
        if self.asked.is_set():
            self.asked_again.set()
        self.asked.set()
        if self.gone.is_set():
            await self.back.wait()
        return self.name

    def thaw(self) -> None:
        self.gone.clear()
        self.back.set()


async def test_the_last_placement_is_not_waited_for_when_its_replica_is_frozen() -> None:
    replica = Frozen("cpu")
    models, placed = alone_with(replica)
    replica.gone.set()
    for ask in (models.call("echo", "ask"), anext(models.stream("echo", "stream"))):
        with pytest.raises(MotetError) as caught:
            await asyncio.wait_for(ask, 5)
        assert (caught.value.failure.kind, caught.value.failure.code) == ("unavailable", "model_restarting")
    handle = cast("FakeHandle", placed.handle)
    assert [name for name, _ in handle.calls] == ["ask", "report"], "the second was refused without asking"
    with pytest.raises(MotetError):
        models.ensure_answers_soon("echo")
    replica.thaw()
    assert placed._check is not None
    await asyncio.wait_for(placed._check, 5)
    models.ensure_answers_soon("echo")
    assert await models.call("echo", "ask") == "cpu"


async def test_a_frozen_replica_among_others_keeps_nobody_out() -> None:
    """The request is at the frozen one; another one says that it lives."""

    class Several(Frozen):
        def __init__(self) -> None:
            super().__init__("frozen")
            self.gone.set()
            self.replicas = [self, Frozen("lively")]

    replica = Several()
    models, placed = alone_with(replica)
    waiting = asyncio.create_task(models.call("echo", "ask"))
    await asyncio.sleep(0.1)
    assert not waiting.done() and not placed.absence.lasts
    replica.thaw()
    assert await asyncio.wait_for(waiting, 5) == "frozen"


async def test_a_replica_that_is_slow_to_say_that_it_lives_is_waited_for() -> None:
    """It gives no sign within the first second, and does within the next five."""
    replica = Frozen("cpu")
    models, placed = alone_with(replica)
    placed._spillover = QUICK.model_copy(update={"last_life_sign_s": 60.0})
    replica.gone.set()
    waiting = asyncio.create_task(models.call("echo", "ask"))
    await asyncio.wait_for(replica.asked_again.wait(), 5)
    replica.thaw()
    assert await asyncio.wait_for(waiting, 5) == "cpu"
    assert placed.alive and not placed.absence.lasts


class Gone(Replica):
    """A model whose replicas are gone while it is `gone`: calls wait in the router, and there is no replica to ask."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.gone.set()

    @property
    def replicas(self) -> list[Any]:
        return [] if self.gone.is_set() else [self]

    def return_(self) -> None:
        self.gone.clear()
        self.back.set()


async def test_a_replica_that_is_not_expected_soon_is_not_waited_for() -> None:
    replica = Gone()
    models, placed = alone_with(replica)
    placed.absence.note_load(2.0)
    for ask in (models.call("echo", "ask"), anext(models.stream("echo", "stream"))):
        with pytest.raises(MotetError) as caught:
            await asyncio.wait_for(ask, 5)
        assert caught.value.failure.code == "model_restarting"
        assert 1 < (caught.value.failure.retry_after_s or 0) <= START_S + 2.0 + RETURN_SPACING_S
    with pytest.raises(MotetError):
        models.ensure_answers_soon("echo")
    replica.return_()
    assert placed._check is not None
    await asyncio.wait_for(placed._check, 5)
    assert await models.call("echo", "ask") == "cpu"
    assert not placed.absence.lasts


async def test_a_replica_that_is_expected_soon_is_waited_for() -> None:
    replica = Gone()
    models, placed = alone_with(replica)
    placed.absence._restart_s = 1.0  # as the last restart took
    waiting = asyncio.create_task(models.call("echo", "ask"))
    await asyncio.sleep(0.1)
    assert placed.absence.lasts and not waiting.done()
    models.ensure_answers_soon("echo")
    replica.return_()
    assert await asyncio.wait_for(waiting, 5) == "cpu"


@pytest.mark.parametrize(("period_s", "timeout_s", "within_s"), [(2, 4, 15.2), (10, 30, 106), (10, 4, 52)])
def test_how_long_a_frozen_replica_stays(period_s: float, timeout_s: float, within_s: float) -> None:
    """Ray Serve asks every `period_s`, but not before the last answer came or was given up, and gives up three times."""
    assert HealthSettings(period_s=period_s, timeout_s=timeout_s).noticed_within_s == pytest.approx(within_s)


ELASTIC = AppConfig(
    models={
        "echo": Model(
            engine="identity",
            placements=(
                Placement(hardware=CudaClass(), autoscaling=AutoscalingSettings(cost=2)),
                Placement(hardware=CpuClass(), autoscaling=AutoscalingSettings(cost=1)),
            ),
        ),
    },
    spillover=SpilloverSettings(silent_s=0.01, life_sign_s=0.01, ask_again_s=0.01, wake_s=0.2),
)


class Sleeper(Replica):
    """One whose placement may have no replicas: then whoever asks it through the router wakes it, and waits."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asleep = asyncio.Event()
        self.woken = asyncio.Event()

    def sleep(self) -> None:
        """Its last replica goes."""
        self.asleep.set()
        self.back.clear()

    def awake(self) -> None:
        """Its first replica comes."""
        self.asleep.clear()
        self.back.set()

    async def ask(self) -> str:
        if self.asleep.is_set():
            self.woken.set()
            await self.back.wait()
        return self.name


def elastic(cuda: Sleeper, cpu: Sleeper) -> ModelDirectory:
    handles = {"cuda": FakeHandle(cuda), "cpu": FakeHandle(cpu)}
    return directory_of(ELASTIC, {"echo": cast("dict[str, Any]", handles)})


def test_a_placement_that_never_answered_gets_one_request_at_a_time() -> None:
    models = directory_of(ELASTIC, {"echo": cast("Any", {kind: FakeHandle(Replica(kind)) for kind in ("cuda", "cpu")})})
    with ExitStack() as under_way:
        chosen = []
        for _ in range(4):
            placed = models.choose("echo")
            under_way.enter_context(placed.request())
            chosen.append(placed.kind)
        first, second = chosen[:2]
        assert {first, second} == {"cuda", "cpu"}
        assert chosen[2:] == ["cuda", "cuda"]  # the first of the configuration
        cpu = next(placed for placed in models.placements("echo") if placed.kind == "cpu")
        cpu.first_answer_s = 1.0
        assert models.choose("echo") is cpu
        assert models.choose("echo", besides=cpu).kind == "cuda"


async def test_a_placement_without_replicas_sleeps_on_while_another_lives() -> None:
    cuda, cpu = Sleeper("cuda"), Sleeper("cpu")
    models = elastic(cuda, cpu)
    cuda.sleep()
    assert [await models.call("echo", "ask") for _ in range(3)] == ["cpu"] * 3
    reports = await models.reports("echo")
    assert isinstance(reports["cuda"], NoAnswer)
    assert reports["cpu"] == "cpu"
    assert models.asleep("echo") == ["cuda"]
    assert not cuda.woken.is_set()


async def test_when_nobody_lives_the_cheapest_is_woken_and_waited_for() -> None:
    cuda, cpu = Sleeper("cuda"), Sleeper("cpu")
    models = elastic(cuda, cpu)
    cuda.sleep()
    cpu.sleep()
    waiting = asyncio.create_task(models.call("echo", "ask"))
    await asyncio.wait_for(cpu.woken.wait(), 5)
    cpu.awake()
    assert await asyncio.wait_for(waiting, 5) == "cpu"
    assert models.asleep("echo") == ["cuda"]  # who answered is known to live, without being asked
    assert not cuda.woken.is_set()


async def test_when_the_cheapest_does_not_come_up_the_next_is_woken() -> None:
    cuda, cpu = Sleeper("cuda"), Sleeper("cpu")
    models = elastic(cuda, cpu)
    cuda.sleep()
    cpu.sleep()
    waiting = asyncio.create_task(models.call("echo", "ask"))
    await asyncio.wait_for(cuda.woken.wait(), 5)
    cuda.awake()
    assert await asyncio.wait_for(waiting, 5) == "cuda"


async def test_a_placement_that_woke_is_used() -> None:
    cuda, cpu = Sleeper("cuda"), Sleeper("cpu")
    models = elastic(cuda, cpu)
    cuda.sleep()
    assert await models.call("echo", "ask") == "cpu"
    cuda.awake()
    await asyncio.wait_for(models.placements("echo")[-1]._start_check(), 5)
    assert models.asleep("echo") == []
    assert await models.call("echo", "ask") == "cuda"
