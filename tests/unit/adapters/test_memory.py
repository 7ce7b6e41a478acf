"""The stand-in: its rules are Kafka's, its file outlives its processes, and its judge finds what is planted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.memory import MemoryWorld, Produced
from dcdr.errors import ConflictError, MisconfiguredError, UnreachableError
from dcdr.model import ConnectorState, Gate, LeaseRecord, OffsetRange, TopicPartition
from dcdr.ports import Member, Scope

ORDERS = TopicPartition("orders", 0)
A_TO_B, B_TO_A = "mm2-source.dc-a-to-dc-b", "mm2-source.dc-b-to-dc-a"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def world(tmp_path: Path) -> MemoryWorld:
    return MemoryWorld.create(tmp_path / "world")


@pytest.fixture
def scope(world: MemoryWorld) -> Scope:
    return world.directory().scope("lab")


@pytest.fixture
def active(scope: Scope) -> Member:
    return scope.member("dc-a")


@pytest.fixture
def standby(scope: Scope) -> Member:
    return scope.member("dc-b")


# --- the file


def test_the_standard_world_is_in_order(world: MemoryWorld) -> None:
    assert world.check() == []


def test_a_world_is_made_once(world: MemoryWorld) -> None:
    with pytest.raises(FileExistsError):
        MemoryWorld.create(world.path)
    with pytest.raises(MisconfiguredError):
        MemoryWorld.open(world.path.with_name("nowhere"))


_WRITER = """
import asyncio, sys
from pathlib import Path
from adapters.memory import memory_directory

async def main():
    ledger = memory_directory(Path(sys.argv[1])).scope("lab").member("dc-a").ledger
    for number in range(100_000):
        await ledger.put(f"{sys.argv[2]}/{number}", b"x" * 1000)
        await ledger.put(f"{sys.argv[2]}/last", str(number).encode())
        print(number, flush=True)

asyncio.run(main())
"""


def killed_writers(path: Path) -> dict[str, int]:
    """Let two processes write at once, kill both in the middle, and say the last number each was told of."""
    told, writers = {}, {}
    try:
        for name in ("one", "two"):
            argv = [sys.executable, "-c", _WRITER, str(path), name]
            writers[name] = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for name, writer in writers.items():
            assert writer.stdout is not None
            told[name] = [writer.stdout.readline() for _ in range(20)]
        for name, writer in writers.items():
            assert writer.stdout is not None
            writer.kill()
            told[name] += [line for line in writer.stdout if line.endswith("\n")]
    finally:
        for writer in writers.values():
            writer.kill()
            writer.wait(10)
            if writer.stdout is not None:
                writer.stdout.close()
    return {name: int(lines[-1]) for name, lines in told.items()}


async def test_what_a_killed_process_was_told_is_there(world: MemoryWorld, active: Member) -> None:
    """Every answer a killed process got holds, and the world is whole."""
    for name, last in killed_writers(world.path).items():
        kept = await active.ledger.find(f"{name}/")
        assert int(kept[f"{name}/last"]) >= last
        assert {f"{name}/{number}" for number in range(last + 1)} <= set(kept)
    assert world.check() == []


async def test_a_call_sees_what_another_process_wrote(world: MemoryWorld, active: Member) -> None:
    other = MemoryWorld.open(world.path)
    for number in range(5):
        await active.ledger.put("k", str(number).encode())
        assert other.ledger("dc-a")["k"] == str(number).encode()
        other.freeze_broker("dc-a", 1, frozen=number % 2 == 0)
        gates = await active.fence.users_gates()
        assert gates[1] is (Gate.UNKNOWN if number % 2 == 0 else Gate.OPEN)


# --- faults


async def test_a_planted_failure_happens_before_the_effect(world: MemoryWorld, active: Member) -> None:
    world.fail("fence.close_users", 2, ConflictError, dc="dc-a", after=1)
    await active.fence.close_users()
    await active.fence.open_users()
    for _ in range(2):
        with pytest.raises(ConflictError):
            await active.fence.close_users()
        assert world.users_open("dc-a")
    await active.fence.close_users()
    assert not world.users_open("dc-a")


async def test_a_lost_answer_happens_after_the_effect(world: MemoryWorld, scope: Scope) -> None:
    held = await scope.lease.read("lab")
    assert held is not None
    world.lose_answer("lease.swap")
    with pytest.raises(UnreachableError):
        await scope.lease.swap(held, held.record.model_copy(update={"seq": 1}))
    found = await scope.lease.read("lab")
    assert found is not None
    assert found.record.seq == 1


async def test_a_fault_of_one_side_leaves_the_other_alone(world: MemoryWorld, active: Member, standby: Member) -> None:
    world.fail("fence.rules", -1, dc="dc-b")
    await active.fence.rules()
    for _ in range(3):
        with pytest.raises(UnreachableError):
            await standby.fence.rules()
    world.heal()
    await standby.fence.rules()


async def test_a_planted_hang_holds_the_call(world: MemoryWorld, active: Member) -> None:
    world.hang("fence.rules", 0.05)
    start = time.monotonic()
    await active.fence.rules()
    assert time.monotonic() - start >= 0.05


def test_a_fault_of_no_method_is_a_mistake(world: MemoryWorld) -> None:
    with pytest.raises(ValueError, match="close_everything"):
        world.fail("fence.close_everything")


async def test_a_side_that_is_cut_off_answers_nothing(world: MemoryWorld, active: Member, standby: Member) -> None:
    world.cut_off("dc-a")
    with pytest.raises(UnreachableError):
        await active.fence.rules()
    with pytest.raises(UnreachableError):
        await active.connect.connectors()
    before = await standby.positions.current(A_TO_B)
    assert world.produce("dc-a", "orders", 0) is Produced.UNKNOWN
    assert await standby.positions.current(A_TO_B) == before
    world.cut_off("dc-a", away=False)
    await active.fence.rules()


# --- rules


async def test_a_broker_that_lags_still_takes_records(world: MemoryWorld, active: Member) -> None:
    leader = next(
        broker
        for broker in (1, 2)
        if world._file.look().clusters["dc-a"].topics["orders"].partitions[0].leader == broker
    )
    world.lag_broker("dc-a", leader, 3)
    await active.fence.close_users()
    assert world.produce("dc-a", "orders", 0) is Produced.ACKED
    gates = [(await active.fence.users_gates())[leader] for _ in range(3)]
    assert gates == [Gate.OPEN, Gate.OPEN, Gate.CLOSED]
    assert world.produce("dc-a", "orders", 0) is Produced.REFUSED
    assert world.produce("dc-a", "orders", 0, principal="mirror") is Produced.ACKED


async def test_a_transaction_can_commit_behind_the_fence_until_its_id_is_taken(
    world: MemoryWorld, active: Member
) -> None:
    world.begin("dc-a", "app-2")
    assert world.produce("dc-a", "orders", 0, ["x"], txn="app-2") is Produced.ACKED
    await active.fence.close_users()
    (mine,) = [t for t in await active.transactions.open() if t.transactional_id == "app-2"]
    assert mine.partitions == (ORDERS,)
    assert world.end("dc-a", "app-2") is Produced.ACKED
    assert "x" in world.values("dc-a", "orders", 0)
    await active.transactions.fence(["app-1"])
    assert world.end("dc-a", "app-1") is Produced.REFUSED
    assert "pending-1" not in world.values("dc-a", "payments", 0)
    assert await active.transactions.open() == ()


async def test_a_stalled_follower_shows_only_in_the_leaders_log_end(world: MemoryWorld, active: Member) -> None:
    world.stall_follower("dc-a", "orders", 0)
    assert world.produce("dc-a", "orders", 0, ["held"]) is Produced.UNKNOWN
    ends = (await active.logs.ends([ORDERS]))[ORDERS]
    assert ends.leo == ends.hw + 1
    assert not ends.settled
    world.stall_follower("dc-a", "orders", 0, stalled=False)
    assert (await active.logs.ends([ORDERS]))[ORDERS].settled
    world.pump(2)
    assert world.check() == []
    assert "held" in world.values("dc-b", "orders", 0)


async def test_a_fenced_mirror_fails_until_it_is_restarted_and_loses_nothing(
    world: MemoryWorld, standby: Member
) -> None:
    await standby.transactions.fence([f"{standby.connect_group_id}-{A_TO_B}-{task}" for task in range(2)])
    failed = (await standby.connect.connectors())[A_TO_B]
    assert set(failed.tasks) == {ConnectorState.FAILED}
    assert "ProducerFenced" in failed.trace
    world.produce("dc-a", "orders", 0, ["during"])
    world.pump(3)
    assert "during" not in world.values("dc-b", "orders", 0)
    await standby.connect.resume(A_TO_B)
    world.pump(3)
    assert "during" not in world.values("dc-b", "orders", 0), "resume does not restart failed tasks"
    await standby.connect.restart(A_TO_B, only_failed=True)
    world.pump(3)
    assert "during" in world.values("dc-b", "orders", 0)
    assert world.check() == []


async def test_offsets_differ_between_the_sides_by_markers(active: Member, standby: Member) -> None:
    ours, theirs = await active.logs.ends([ORDERS]), await standby.logs.ends([ORDERS])
    assert theirs[ORDERS].leo > ours[ORDERS].leo


async def test_a_topic_created_a_moment_ago_is_not_mirrored_before_a_refresh(
    world: MemoryWorld, standby: Member
) -> None:
    world.create_topic("dc-a", "young")
    world.produce("dc-a", "young", 0, ["early"])
    world.pump(3)
    assert "young" not in await standby.logs.topics()
    world.refresh_mirror("dc-b")
    world.pump(3)
    assert world.values("dc-b", "young", 0) == ["early"]


async def test_a_visible_read_says_where_it_had_to_stop(active: Member) -> None:
    pending = TopicPartition("payments", 0)
    end = (await active.logs.ends([pending]))[pending]
    assert end.lso < end.hw
    whole = {pending: OffsetRange(end.start, end.leo)}
    assert not (await active.logs.visible(whole, 1000))[pending].complete
    assert (await active.logs.visible({pending: OffsetRange(end.start, end.lso)}, 1000))[pending].complete
    assert not (await active.logs.visible({ORDERS: OffsetRange(0, 12)}, 3))[ORDERS].complete


# --- the judge: each anomaly is found


async def _both_open(world: MemoryWorld, scope: Scope) -> None:
    await scope.member("dc-b").fence.open_users()


async def _late_checkpoint(world: MemoryWorld, scope: Scope) -> None:
    with world._file.change() as state:
        state.clusters["dc-a"].groups["billing"].offsets["orders"][0] = (3, "")


async def _skipping_group(world: MemoryWorld, scope: Scope) -> None:
    with world._file.change() as state:
        state.clusters["dc-a"].groups["reports"].offsets["orders"][0] = (12, "")


async def _lost_group(world: MemoryWorld, scope: Scope) -> None:
    with world._file.change() as state:
        del state.clusters["dc-a"].groups["reports"]


async def _unseeded_reverse(world: MemoryWorld, scope: Scope) -> None:
    await scope.member("dc-a").connect.resume(B_TO_A)
    world.pump(4)


async def _lost_record(world: MemoryWorld, scope: Scope) -> None:
    with world._file.change() as state:
        state.clusters["dc-a"].topics["orders"].partitions[0].entries.pop(3)


async def _swapped_records(world: MemoryWorld, scope: Scope) -> None:
    with world._file.change() as state:
        entries = state.clusters["dc-a"].topics["orders"].partitions[0].entries
        first, second = entries[3].value, entries[4].value
        entries[3], entries[4] = entries[3]._replace(value=second), entries[4]._replace(value=first)


async def _aborted_record_kept(world: MemoryWorld, scope: Scope) -> None:
    with world._file.change() as state:
        log = state.clusters["dc-a"].topics["payments"].partitions[1]
        log.entries = [e._replace(fate="kept") for e in log.entries]


async def _flip_to_closed(world: MemoryWorld, scope: Scope) -> None:
    await scope.endpoint.flip("dc-b", 2)


async def _holder_without_epoch(world: MemoryWorld, scope: Scope) -> None:
    held = await scope.lease.read("lab")
    assert held is not None
    await scope.lease.swap(held, held.record.model_copy(update={"holder": "dc-b"}))


async def _epoch_back(world: MemoryWorld, scope: Scope) -> None:
    held = await scope.lease.read("lab")
    assert held is not None
    held = await scope.lease.swap(held, held.record.model_copy(update={"epoch": 5}))
    await scope.lease.swap(held, held.record.model_copy(update={"epoch": 4}))


async def _unfinished(world: MemoryWorld, scope: Scope) -> None:
    record = LeaseRecord(scope="lab", holder="dc-a", epoch=1, op_id="op", op_source="dc-a", op_target="dc-b")
    world.set_lease(record.model_dump_json())


async def _closed_active(world: MemoryWorld, scope: Scope) -> None:
    await scope.member("dc-a").fence.freeze_groups()


async def _mirror_stopped(world: MemoryWorld, scope: Scope) -> None:
    await scope.member("dc-b").connect.stop(A_TO_B)


@pytest.mark.parametrize(
    ("anomaly", "kinds"),
    [
        (_both_open, {"both-open", "open-without-lease", "mirror-into-active"}),
        (_late_checkpoint, {"group-rereads"}),
        (_skipping_group, {"group-skipped"}),
        (_lost_group, {"group-lost"}),
        (_unseeded_reverse, {"both-mirrors", "mirror-into-active", "duplicated"}),
        (_lost_record, {"missing"}),
        (_swapped_records, {"reordered"}),
        (_aborted_record_kept, {"strange"}),
        (_flip_to_closed, {"flip-to-closed", "endpoint"}),
        (_holder_without_epoch, {"epoch-kept", "open-without-lease"}),
        (_epoch_back, {"epoch-back"}),
        (_unfinished, {"lease"}),
        (_closed_active, {"gate"}),
        (_mirror_stopped, {"mirror"}),
    ],
    ids=lambda value: value.__name__.strip("_").replace("_", " ") if callable(value) else None,
)
async def test_the_judge_finds_what_is_planted(
    world: MemoryWorld, scope: Scope, anomaly: Callable[[MemoryWorld, Scope], object], kinds: set[str]
) -> None:
    result = anomaly(world, scope)
    assert asyncio.iscoroutine(result)
    await result
    found = {line.partition(":")[0] for line in world.check()}
    assert kinds <= found
    assert not {line.partition(":")[0] for line in world.check(ignore=sorted(kinds))} & kinds


async def test_what_was_wrong_for_a_moment_is_still_told_afterwards(world: MemoryWorld, standby: Member) -> None:
    await standby.fence.open_users()
    await standby.fence.close_users()
    assert any(line.startswith("both-open") for line in world.check())


def test_a_large_world_is_bearable(tmp_path: Path) -> None:
    """10,000 partitions: what a scope may have."""
    world = MemoryWorld.create(tmp_path / "large", topics={f"t{n}": 1000 for n in range(10)}, records=0)
    start = time.process_time()
    world.pump()
    assert time.process_time() - start < 5
