"""Quotas that several gateways share: together they stay within the limit, and they can use nearly all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import MotetError
from deployments.replica.quota_ledger import LISTENS_S, MINUTE_S, LeaseAnswer, LeaseReport, QuotaLedger
from serve_app.edge.settings import SecuritySettings
from serve_app.gateway.key_quotas import Quota, QuotaBucket
from serve_app.gateway.key_ring import KeyRing
from serve_app.gateway.quota_leases import EVERY_S, QuotaLeases
from serve_app.gateway.quota_portions import UNUSED_SHARE, Portion, PortionBook
from serve_app.gateway.request_context import REQUEST, RequestRecord

TICK_S = 0.05
ROUNDING = 1e-6


class Fleet:
    """Gateways, a ledger and a clock. `spent` is one bucket that is charged for all that is admitted anywhere."""

    def __init__(self, gateways: int, per_minute: float, *, whole: bool = True) -> None:
        self.now_s = 1000.0
        self.books = [PortionBook(f"gateway-{number}", gateways, self.clock) for number in range(gateways)]
        self.portions = [book.portion("alice", per_minute, whole=whole) for book in self.books]
        self.spent = QuotaBucket(per_minute, self.clock)
        self.admitted = [0] * gateways
        self.exchanges = 0
        self.cut: set[int] = set()
        self.ledgers = 0
        self.renew_ledger()
        self.run(LISTENS_S + TICK_S)

    def clock(self) -> float:
        return self.now_s

    def renew_ledger(self) -> None:
        self.ledgers += 1
        self.ledger: QuotaLedger | None = QuotaLedger(self.clock, f"ledger-{self.ledgers}")

    def exchange(self, gateway: int, *, lost: bool = False) -> None:
        """As `QuotaLeases` does it. The answer may be lost."""
        book = self.books[gateway]
        report = book.report()
        if self.ledger is None or gateway in self.cut:
            book.lose_ledger()
            return
        self.exchanges += 1
        answer = self.ledger.exchange(report)
        book.lose_ledger() if lost else book.settle(answer)

    def ask(self, gateway: int, amount: float = 1.0) -> bool:
        """A request at a gateway. Returns whether it was admitted."""
        portion = self.portions[gateway]
        portion.use()
        if portion.is_short(amount):
            portion.awaited += amount
            self.exchange(gateway)
            portion.awaited -= amount
        if portion.wait_s(amount):
            return False
        portion.take(amount)
        self.spent.take(amount)
        self.admitted[gateway] += 1
        left = self.spent.left or 0.0
        assert left >= -ROUNDING, f"{-left} more than there is"
        return True

    def run(self, seconds: float, act: Callable[[], object] = lambda: None) -> None:
        """Time passes; every tick, `act` happens."""
        for tick in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            act()
            if tick % round(EVERY_S / TICK_S) == 0:
                for gateway, book in enumerate(self.books):
                    if book.in_use:
                        self.exchange(gateway)

    @property
    def sum(self) -> int:
        return sum(self.admitted)


def asking(fleet: Fleet, gateways: Sequence[int], times: int = 1) -> Callable[[], None]:
    turns = cycle(gateways)

    def ask() -> None:
        for _ in range(times):
            fleet.ask(next(turns))

    return ask


@pytest.mark.parametrize("gateways", [2, 4, 16])
@pytest.mark.parametrize("per_minute", [10, 60, 600])
@pytest.mark.parametrize("to", ["all", "one", "the last more often"])
def test_nearly_all_of_the_limit_can_be_used_and_no_more(gateways: int, per_minute: int, to: str) -> None:
    fleet = Fleet(gateways, per_minute)
    everyone = list(range(gateways))
    at = {"all": everyone, "one": [0], "the last more often": [*everyone, *[gateways - 1] * 5]}[to]
    fleet.run(2 * MINUTE_S, asking(fleet, at, times=max(1, per_minute // 200)))
    there_was = per_minute * 3  # the bucket, and two minutes
    assert 0.95 * there_was - 1 <= fleet.sum <= there_was


def test_a_burst_at_one_gateway_gets_nearly_the_whole_minute() -> None:
    fleet = Fleet(4, 1000)
    for gateway in (1, 2, 3):
        assert fleet.ask(gateway)  # each of them now holds a portion
    assert sum(fleet.ask(0) for _ in range(2000)) >= 950


def test_clients_that_move_to_another_gateway_find_what_is_left() -> None:
    fleet = Fleet(4, 600)
    for gateway in range(4):
        fleet.run(MINUTE_S / 2, asking(fleet, [gateway], times=2))
    assert fleet.sum >= 0.95 * 600 * 3


def test_a_gateway_that_dies_takes_no_more_than_its_portion() -> None:
    fleet = Fleet(3, 600)
    fleet.run(10, asking(fleet, [0, 1, 2]))
    fleet.cut.add(2)
    fleet.books[2].lose_ledger()
    before = fleet.sum
    fleet.run(10, asking(fleet, [0, 1], times=4))
    assert fleet.sum - before >= 600 - before + 20 * 10 - 600 * UNUSED_SHARE
    fleet.run(MINUTE_S)
    before = fleet.sum
    fleet.run(2 * MINUTE_S, asking(fleet, [0, 1], times=4))
    assert fleet.sum - before >= 0.95 * 600 * 3


def test_without_the_ledger_gateways_go_on_with_equal_parts() -> None:
    fleet = Fleet(4, 600)
    fleet.run(2 * MINUTE_S, asking(fleet, [0, 1, 2, 3], times=2))
    fleet.ledger = None
    before, parts = fleet.sum, list(fleet.admitted)
    fleet.run(MINUTE_S, asking(fleet, [0, 1, 2, 3], times=2))
    assert 0.95 * 600 <= fleet.sum - before <= 600 * (1 + UNUSED_SHARE)
    parts = [now - then for now, then in zip(fleet.admitted, parts, strict=True)]
    assert max(parts) - min(parts) < 600 * UNUSED_SHARE
    before = fleet.sum
    fleet.run(MINUTE_S, asking(fleet, [0], times=2))
    assert 0.95 * 150 <= fleet.sum - before <= 150 * 1.01


def test_without_the_ledger_a_quiet_gateway_saves_at_most_its_part_of_a_minute() -> None:
    fleet = Fleet(4, 600)
    fleet.ask(0)
    fleet.ledger = None
    fleet.run(10 * MINUTE_S)
    assert 140 <= sum(fleet.ask(0) for _ in range(600)) <= 150
    assert fleet.portions[0].wait_s(1.0) == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize("away_s", [0.0, 5.0, 90.0])
@pytest.mark.parametrize("pause_s", [0.0, 20.0])
def test_a_ledger_that_is_replaced_lends_nothing_twice(away_s: float, pause_s: float) -> None:
    fleet = Fleet(4, 600)
    fleet.run(10, asking(fleet, [0, 1, 2], times=4))  # all of it
    fleet.run(pause_s)
    fleet.ledger = None
    fleet.run(away_s, asking(fleet, [0, 1, 2, 3]))
    fleet.renew_ledger()
    before = fleet.sum
    fleet.run(2 * MINUTE_S, asking(fleet, [0, 1, 2, 3], times=4))  # `ask` ensures the limit
    assert fleet.sum - before >= 0.95 * 600 * 2 - 10 * LISTENS_S


def test_what_a_gateway_saved_without_the_ledger_is_not_there_twice() -> None:
    fleet = Fleet(4, 600)
    fleet.run(MINUTE_S, asking(fleet, [0, 1, 2, 3], times=2))
    fleet.cut.add(3)
    fleet.run(MINUTE_S, asking(fleet, [0, 1, 2], times=2))
    fleet.cut.clear()
    fleet.run(EVERY_S, asking(fleet, [0, 1, 2], times=2))
    fleet.run(MINUTE_S, asking(fleet, [0, 1, 2, 3], times=2))  # `ask` ensures the limit


def test_a_ledger_that_is_replaced_while_nobody_asks_hears_of_what_was_used() -> None:
    fleet = Fleet(4, 600)
    fleet.run(10, asking(fleet, [0, 1, 2], times=4))
    fleet.run(20)
    fleet.renew_ledger()
    fleet.run(LISTENS_S + TICK_S)
    assert sum(fleet.ask(1) for _ in range(700)) == 0  # `ask` ensures the limit
    fleet.run(MINUTE_S)
    assert sum(fleet.ask(1) for _ in range(700)) >= 0.95 * 600


def test_another_ledger_gets_what_gateways_saved_without_one() -> None:
    fleet = Fleet(4, 600)
    fleet.run(MINUTE_S, asking(fleet, [0, 1, 2, 3], times=2))
    fleet.ledger = None
    fleet.run(MINUTE_S, asking(fleet, [0, 1, 2], times=2))
    fleet.renew_ledger()
    fleet.run(LISTENS_S + TICK_S)
    assert sum(fleet.ask(0) for _ in range(700)) >= 0.95 * 600 / 4 - 600 * UNUSED_SHARE


def test_what_gateways_hold_does_not_refill() -> None:
    fleet = Fleet(4, 600)

    def use() -> None:
        for portion in fleet.portions:
            portion.use()

    fleet.run(10, use)
    assert sum(fleet.ask(gateway) for gateway in range(4) for _ in range(700)) >= 0.95 * 600


def test_a_ledger_lends_no_part_of_a_request() -> None:
    fleet = Fleet(2, 60)
    while fleet.ask(0):
        pass
    fleet.run(0.6)
    assert not fleet.ask(0)
    fleet.run(0.5)
    assert fleet.ask(1)


def test_one_gateway_that_lost_the_ledger_gets_its_part_on_top() -> None:
    fleet = Fleet(4, 600)
    fleet.run(2 * MINUTE_S, asking(fleet, [0, 1, 2, 3], times=2))
    fleet.cut.add(3)
    fleet.spent = QuotaBucket(1e9, fleet.clock)  # here they may be over the limit
    before = fleet.sum
    fleet.run(MINUTE_S, asking(fleet, [0, 1, 2, 3], times=2))
    assert fleet.sum - before <= 600 * (1.25 + UNUSED_SHARE)
    fleet.cut.clear()
    fleet.run(MINUTE_S)
    held = fleet.portions[3].left
    assert held is not None and held <= 600


def test_a_service_that_begins_has_its_whole_minute() -> None:
    fleet = Fleet(2, 60)
    assert sum(fleet.ask(gateway) for gateway in (0, 1) for _ in range(60)) >= 57


def test_a_ledger_listens_before_it_lends() -> None:
    fleet = Fleet(2, 60)
    fleet.renew_ledger()
    assert not fleet.ask(0)
    fleet.run(LISTENS_S + TICK_S)
    assert fleet.ask(0)  # none of the gateways knew another ledger: the service is new


def test_nobody_is_asked_while_nothing_is_used() -> None:
    fleet = Fleet(2, 60)
    fleet.ask(0)
    fleet.run(2 * MINUTE_S)
    exchanges = fleet.exchanges
    fleet.run(MINUTE_S)
    assert fleet.exchanges == exchanges


def test_a_key_without_limits_needs_no_ledger() -> None:
    fleet = Fleet(2, 60)
    free = fleet.books[0].portion("free", None, whole=True)
    free.take(1e6)
    assert (free.left, free.wait_s(1e6), free.is_short(1.0), fleet.books[0].in_use) == (None, 0.0, False, False)


def test_a_key_that_has_used_its_minute_does_not_ask_for_each_request() -> None:
    fleet = Fleet(2, 60)
    fleet.run(5, asking(fleet, [0, 1], times=20))
    before = fleet.exchanges
    fleet.run(10, asking(fleet, [0, 1], times=20))
    assert fleet.exchanges - before <= 2 * 10 * 5


def test_the_time_to_wait_is_that_of_the_whole_limit() -> None:
    fleet = Fleet(2, 60)
    while fleet.ask(0):
        pass
    assert 0 < fleet.portions[0].wait_s(1.0) <= 1.0
    assert fleet.portions[0].wait_s(10.0) == pytest.approx(10.0, abs=1.0)


def test_overdrawn_audio_is_paid_back_by_all_gateways() -> None:
    fleet = Fleet(2, 60, whole=False)
    here, there = fleet.portions

    def use() -> None:
        for portion in fleet.portions:
            portion.use()

    fleet.run(1, use)
    assert (here.wait_s(), there.wait_s()) == (0.0, 0.0)
    here.take(60 + 120)
    fleet.run(1, there.use)
    assert here.wait_s() == pytest.approx(120, abs=3)
    there.take(2.0)  # what it held
    fleet.run(0.5)
    assert there.wait_s() == pytest.approx(120, abs=4)
    fleet.run(125)
    assert (here.wait_s(), there.wait_s()) == (0.0, 0.0)


def test_overdrawn_audio_is_charged_once_however_many_answers_are_lost() -> None:
    fleet = Fleet(2, 60, whole=False)
    fleet.portions[0].use()
    fleet.exchange(0)
    fleet.portions[0].take(60)
    for _ in range(10):
        fleet.exchange(0, lost=True)
    fleet.exchange(0)
    fleet.portions[1].use()
    fleet.exchange(1)
    assert all(portion.wait_s() <= MINUTE_S for portion in fleet.portions)


def test_a_report_that_was_overtaken_changes_nothing() -> None:
    fleet = Fleet(2, 60, whole=False)
    fleet.portions[0].use()
    fleet.exchange(0)
    fleet.portions[0].take(60)
    late = fleet.books[0].report()
    fleet.exchange(0)
    left = fleet.portions[0].left
    assert fleet.ledger is not None
    fleet.ledger.exchange(late)
    fleet.exchange(0)
    assert fleet.portions[0].left == pytest.approx(left, abs=0.1)


def test_a_ledger_that_is_found_late_listens_as_well() -> None:
    fleet = Fleet(2, 60)
    while fleet.ask(0):
        pass
    fleet.renew_ledger()
    fleet.now_s += LISTENS_S + 0.1
    assert not fleet.ask(0)
    assert fleet.sum <= 60


def test_a_new_service_says_how_soon_it_knows_its_quotas() -> None:
    fleet = Fleet(2, 1)
    fleet.renew_ledger()
    fleet.books = [PortionBook("new", 2, fleet.clock)]
    [fleet.portions[0]] = [fleet.books[0].portion("alice", 1, whole=True)]
    assert not fleet.ask(0)
    assert 0 < fleet.portions[0].wait_s(1.0) <= LISTENS_S


def test_a_key_that_comes_back_has_the_portion_that_running_requests_charge() -> None:
    book = PortionBook("one", 2, lambda: 0.0)
    portion = book.portion("alice", 60, whole=True)
    portion.use()
    assert book.portion("alice", 120, whole=True) is portion
    assert portion.per_minute == 120


def test_a_limit_that_changes_is_no_refill() -> None:
    fleet = Fleet(2, 600)
    while fleet.ask(0):
        pass
    for portion in fleet.portions:
        portion.change(1200)
    assert not fleet.ask(1)
    fleet.spent.change(1200)
    fleet.run(5, asking(fleet, [0, 1], times=4))
    assert 0.9 * 100 <= fleet.sum - 600 <= 110


def test_the_ledger_forgets_quotas_that_are_full_again() -> None:
    now_s = 0.0
    ledger = QuotaLedger(lambda: now_s)
    now_s = LISTENS_S
    for name in ("first", "second"):
        book = PortionBook(f"gateway of {name}", 2, lambda: now_s)
        book.portion(name, 60, whole=True).use()
        book.settle(ledger.exchange(book.report()))
    assert ledger.quotas == 2
    now_s += 3 * MINUTE_S
    ledger.exchange(LeaseReport("another", None, {}, 1, 0))
    assert ledger.quotas == 0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.integers(0, 2), st.integers(1, 40)),
            st.tuples(st.just("lose an answer"), st.integers(0, 2), st.just(0)),
            st.tuples(st.just("wait"), st.integers(0, 1), st.integers(1, 20)),
            st.tuples(st.just("replace the ledger"), st.just(0), st.integers(0, 10)),
        ),
        max_size=30,
    )
)
def test_the_limit_holds_whatever_happens(events: list[tuple[str, int, int]]) -> None:
    fleet = Fleet(3, 60)
    for event, gateway, number in events:
        if event == "ask":
            for _ in range(number):
                fleet.ask(gateway)
        elif event == "lose an answer":
            fleet.portions[gateway].use()
            fleet.exchange(gateway, lost=True)
            fleet.exchange(gateway)
        elif event == "wait":
            fleet.run(number / 10)
        else:
            fleet.ledger = None
            fleet.run(number)
            fleet.renew_ledger()


# The calls


class Calls:
    """A ledger that answers when it is let."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.ledger = QuotaLedger(self.clock)
        self.now_s = LISTENS_S
        self.reports: list[LeaseReport] = []
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self.answers.set()
        self.fails = False

    def clock(self) -> float:
        return self.now_s

    async def exchange(self, report: LeaseReport) -> LeaseAnswer:
        self.reports.append(report)
        self.asked.set()
        await self.answers.wait()
        if self.fails:
            raise ConnectionError("the ledger is away")
        return self.ledger.exchange(report)


async def admitted(leases: QuotaLeases, portion: Portion) -> bool:
    await leases.fetch([(portion, 1.0)])
    if portion.wait_s(1.0):
        return False
    portion.take(1.0)
    return True


async def test_requests_that_come_together_wait_for_few_calls() -> None:
    calls = Calls()
    leases = QuotaLeases(calls.exchange, "gateway", 4, calls.clock)
    portion = leases.book.portion("alice", 60, whole=True)
    calls.answers.clear()
    waiting = [asyncio.create_task(admitted(leases, portion)) for _ in range(80)]
    await calls.asked.wait()
    calls.answers.set()
    assert sum(await asyncio.gather(*waiting)) == 60
    assert len(calls.reports) <= 3


async def test_a_client_that_leaves_does_not_end_the_call_of_others() -> None:
    calls = Calls()
    leases = QuotaLeases(calls.exchange, "gateway", 4, calls.clock)
    portion = leases.book.portion("alice", 10, whole=True)
    calls.answers.clear()
    waiting = [asyncio.create_task(admitted(leases, portion)) for _ in range(2)]
    await calls.asked.wait()
    waiting[0].cancel()
    calls.answers.set()
    assert await waiting[1]
    assert portion.awaited == 0.0


async def test_a_call_is_no_part_of_the_request_that_began_it() -> None:
    calls, requests = Calls(), []

    async def exchange(report: LeaseReport) -> LeaseAnswer:
        requests.append(REQUEST.get())
        return await calls.exchange(report)

    leases = QuotaLeases(exchange, "gateway", 2, calls.clock)
    REQUEST.set(RequestRecord())
    assert await admitted(leases, leases.book.portion("alice", 60, whole=True))
    assert requests == [None]


async def test_requests_do_not_wait_for_a_ledger_that_is_away() -> None:
    calls = Calls()
    leases = QuotaLeases(calls.exchange, "gateway", 2, calls.clock)
    portion = leases.book.portion("alice", 60, whole=True)
    calls.fails = True
    assert not await admitted(leases, portion)
    asked = len(calls.reports)
    assert not await admitted(leases, portion)
    assert len(calls.reports) == asked
    calls.now_s += 2.0  # an equal part of the limit is one request in two seconds
    assert await admitted(leases, portion)
    assert not await admitted(leases, portion)
    assert leases.book.is_alone


# The keys


def rings(gateways: int, calls: Calls, security: SecuritySettings) -> list[KeyRing]:
    """The keys of each gateway."""
    shared = [QuotaLeases(calls.exchange, f"gateway-{number}", gateways, calls.clock) for number in range(gateways)]
    return [KeyRing(security, calls.clock, shared=each) for each in shared]


async def begun(ring: KeyRing, requests: int = 1) -> str | None:
    """Begins a request of the only key. Returns the code of its refusal."""
    (key,) = ring.named()
    await ring.fetch_quotas(key, requests)
    try:
        if requests:
            key.count_request()
        key.ensure_audio()
    except MotetError as error:
        return error.failure.code
    return None


async def test_gateways_admit_as_many_requests_of_a_key_as_one_would() -> None:
    key = {"sha256": ["0" * 64], "requests_per_minute": 20}
    here, there = rings(2, Calls(), SecuritySettings.model_validate({"keys": {"alice": key}}))
    answers = [await begun(ring) for _ in range(20) for ring in (here, there)]
    assert answers.count(None) == 20
    assert set(answers[20:]) == {"request_quota"}


async def test_audio_that_one_gateway_made_is_charged_at_the_other() -> None:
    key = {"sha256": ["0" * 64], "seconds_of_audio_per_minute": 60}
    calls = Calls()
    here, there = rings(2, calls, SecuritySettings.model_validate({"keys": {"alice": key}}))
    assert await begun(here) is None
    next(here.named()).take_audio(90.0)
    assert await begun(here) == "audio_quota"
    assert await begun(there) == "audio_quota"
    assert await begun(there, requests=0) == "audio_quota"  # a job
    calls.now_s += 31.0
    assert await begun(there) is None


async def test_a_key_that_is_replaced_keeps_its_portion(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    settings = SecuritySettings(keys_file=str(file))
    calls = Calls()
    file.write_text(f"alice: {{sha256: ['{'0' * 64}'], requests_per_minute: 10}}")
    here, there = rings(2, calls, settings)
    assert [await begun(here) for _ in range(10)] == [None] * 10
    file.write_text(f"alice: {{sha256: ['{'1' * 64}'], requests_per_minute: 10}}")
    calls.now_s += settings.keys_file_check_s
    for ring in (here, there):
        await ring.refresh()
        assert ring.find("1" * 64) is not None
        assert await begun(ring) == "request_quota"


@pytest.mark.parametrize("shared", [False, True])
def test_a_quota_of_one_gateway_and_a_portion_are_used_alike(shared: bool) -> None:
    now_s = 0.0
    book = PortionBook("gateway", 1, lambda: now_s)

    def quota(per_minute: float | None) -> Quota:
        return book.portion("audio", per_minute, whole=False) if shared else QuotaBucket(per_minute, lambda: now_s)

    unlimited, limited = quota(None), quota(60.0)
    unlimited.take(1e9)
    assert (unlimited.left, unlimited.wait_s(1e9)) == (None, 0.0)
    limited.take(90.0)
    assert (limited.left, limited.per_minute) == (-30.0, 60.0)
    limited.change(None)
    assert (limited.left, limited.wait_s(1e9)) == (None, 0.0)
