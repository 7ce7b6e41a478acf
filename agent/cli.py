"""`dcdr agent`, `dcdr lease` and `dcdr fence`: the lease and the gates, seen and steered by hand, without Temporal.

Exit codes as of `dcdr`: 0 done, 1 failed, 2 usage or settings, 3 refused (nothing was changed), 6 unreachable.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn
from uuid import uuid4

import typer
from pydantic import ValidationError

from adapters.directory import build_directory
from adapters.etcd import EtcdClient, EtcdIntentStore, EtcdLeaseStore
from agent.__main__ import main as run_agent
from dcdr import intent as intents
from dcdr import lease as leases
from dcdr.errors import (
    ConflictError,
    DcdrError,
    MisconfiguredError,
    PermanentError,
    PlanRefusedError,
    TransientError,
    UnreachableError,
)
from dcdr.intent import Ask, Intent
from dcdr.marker import Role, role_of
from dcdr.model import Gate, LeaseRecord, Operation, Pause, Phase, StoredLease
from dcdr.ports import IntentStore, LeaseStore
from dcdr.settings import Fence, ScopeSettings, Settings, settings_path

FAILED, USAGE, REFUSED, UNREACHABLE = 1, 2, 3, 6
OBEY_SECONDS, LOOK_SECONDS = 20.0, 0.1
NOBODY = -1
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
LONGEST_PAUSE = timedelta(days=7)

fence = typer.Typer(no_args_is_help=True, help="What every broker lets users do, asked by effect.")
agent = typer.Typer(no_args_is_help=True, help="One small process a data center that keeps its lease.")
lease = typer.Typer(no_args_is_help=True, help="Who may be written to.")


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="table or json.")]
SettingsOption = Annotated[Path | None, typer.Option(help="Settings file (default: $DCDR_SETTINGS).")]
ScopeArgument = Annotated[str, typer.Argument(help="The scope: what fails over together.")]


@agent.command()
def run(
    dc: Annotated[str, typer.Option("--dc", "--dc-name", help="The data center whose lease is kept.")],
    scope: Annotated[str | None, typer.Option(help="The scope (default: the only one).")] = None,
    settings: SettingsOption = None,
    log_format: Annotated[str, typer.Option(help="text or json.")] = "text",
) -> None:
    """Keep the lease until SIGTERM. Never gives it up at the end: what the brokers were told runs out by itself."""
    arguments = ["--dc", dc, "--log-format", log_format]
    arguments += ["--scope", scope] if scope else []
    arguments += ["--settings", str(settings)] if settings else []
    raise typer.Exit(run_agent(arguments))


@lease.command()
def show(
    scope: ScopeArgument,
    settings: SettingsOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """The record as the store has it now, and the intent beside it."""

    async def work(store: LeaseStore, wishes: IntentStore, _: ScopeSettings) -> None:
        stored, wish = await store.read(scope), (await wishes.read(scope)).intent
        _show(_told(scope, stored, wish), stored, wish, output)

    _do(scope, settings, work)


@lease.command()
def bootstrap(
    scope: ScopeArgument,
    holder: Annotated[str, typer.Option(help="The data center that is to be active.")],
    epoch_floor: Annotated[int, typer.Option(min=0, help="The highest epoch ever used; 0 for a new estate.")],
    replace: Annotated[bool, typer.Option("--replace", help="Write over a record that was rolled back.")] = False,
    settings: SettingsOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create the record. It is never created by itself, because nobody could tell a new estate from a lost record.

    First it waits as long as a candidate would: brokers may still believe whoever held a lease that is lost. A sign of
    life meanwhile, and nothing is written.
    """

    async def work(store: LeaseStore, _: IntentStore, about: ScopeSettings) -> None:
        if holder not in about.members:
            raise MisconfiguredError(f"{holder} is no member of {scope}; members: {', '.join(about.members)}")
        record = LeaseRecord(scope=scope, holder=holder, epoch=epoch_floor + 1)
        there = await store.read(scope)
        if there is not None and not replace:
            raise PlanRefusedError(
                f"{_told(scope, there, None)}\na record is there. If the store was rolled back and you know which side "
                "was active last, give --replace and the highest epoch that any agent remembers"
            )
        if there is not None and epoch_floor < there.record.epoch:
            raise PlanRefusedError(
                f"the record of {scope} has epoch {there.record.epoch}; --epoch-floor {epoch_floor} would use it again"
            )
        wait = about.lease.timing.wait
        typer.echo(f"waiting {wait:g} s: until then, brokers may believe an earlier holder", err=True)
        await asyncio.sleep(wait)
        made = await (store.bootstrap(record) if there is None else store.swap(there, record))
        _show(f"{holder} holds the lease of {scope}, epoch {made.record.epoch}", made, None, output)

    _do(scope, settings, work)


@lease.command()
def handover(
    scope: ScopeArgument,
    to: Annotated[str, typer.Option("--to", help="The data center that held it before the takeover.")],
    settings: SettingsOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give back a lease that was taken over and never opened (phase ACQUIRED). Anything else is a switchover."""

    async def work(store: LeaseStore, wishes: IntentStore, about: ScopeSettings) -> None:
        record = await _record(store, scope)
        again = record.phase is Phase.ACQUIRED and record.last_open == record.holder  # it went there and back
        if to not in about.members or (to == record.holder and not again):
            raise MisconfiguredError(f"--to {to}: give the member of {scope} that does not hold the lease")
        operation = Operation(
            scope=scope, id=f"hand-back-{uuid4().hex[:8]}", epoch=record.epoch, turn=record.turn,
            source=record.holder, target=to,
        )  # fmt: skip
        wish = Intent(operation=operation, ask=Ask.HAND_BACK, requested_by=_user())
        after = await _obeyed(store, wishes, record, wish)
        _show(f"{to} holds the lease of {scope} again, epoch {after.record.epoch}", after, wish, output)

    _do(scope, settings, work)


@lease.command()
def pause(
    scope: ScopeArgument,
    duration: Annotated[str, typer.Option("--for", help="How long: 90s, 30m, 4h, 1d; at most 7d. It ends by itself.")],
    reason: Annotated[str, typer.Option(help="Why; shown to whoever wonders that nothing is taken over.")],
    maintenance: Annotated[
        bool, typer.Option("--maintenance", help="The holder keeps the lease although its Kafka is unwell, too.")
    ] = False,
    settings: SettingsOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """No takeover by itself for a while; a person may still ask for one. The holder's agent writes it down."""
    until = datetime.now(UTC) + _duration(duration)

    async def work(store: LeaseStore, wishes: IntentStore, about: ScopeSettings) -> None:
        try:
            wish = Pause(until=until, maintenance=maintenance, by=_user(), reason=reason)
        except ValidationError as error:
            raise MisconfiguredError(f"--reason: {error.errors()[0]['msg']}") from error
        after, obeyed = await _pause(store, wishes, about, scope, wish)
        _show(f"nothing is taken over in {scope} by itself until {until:%Y-%m-%d %H:%M:%S} UTC", after, obeyed, output)

    _do(scope, settings, work)


@lease.command()
def resume(
    scope: ScopeArgument,
    settings: SettingsOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """End a pause before its time."""

    async def work(store: LeaseStore, wishes: IntentStore, about: ScopeSettings) -> None:
        after, wish = await _pause(store, wishes, about, scope, None)
        _show(f"takeovers in {scope} are not paused", after, wish, output)

    _do(scope, settings, work)


async def _pause(
    store: LeaseStore, wishes: IntentStore, about: ScopeSettings, scope: str, wish: Pause | None
) -> tuple[StoredLease, Intent]:
    record = await _record(store, scope)
    if record.phase is Phase.DRAINING:  # there is one intent a scope: ours would delay its next one, inside the outage
        raise PlanRefusedError(f"operation {record.op_id} drains {record.holder} just now: pause when it has ended")
    operation = Operation(
        scope=scope, id=f"pause-{uuid4().hex[:8]}", epoch=record.epoch, turn=record.turn, source=record.holder,
        target=next(dc for dc in about.members if dc != record.holder),
    )  # fmt: skip
    asked = Intent(operation=operation, ask=Ask.PAUSE, pause=wish, requested_by=_user())
    return await _obeyed(store, wishes, record, asked), asked


async def _record(store: LeaseStore, scope: str) -> LeaseRecord:
    stored = await store.read(scope)
    if stored is None:
        raise MisconfiguredError(f"scope {scope} has no lease record: `dcdr lease bootstrap` creates it")
    return stored.record


async def _obeyed(store: LeaseStore, wishes: IntentStore, record: LeaseRecord, wish: Intent) -> StoredLease:
    """Ask the holder's agent, and wait. Raises: DcdrError where the record refuses; TimeoutError when nobody obeys."""
    scope = record.scope
    intents.obey(record, wish)  # refused here, before anything is written
    await wishes.write(scope, await wishes.read(scope), wish)
    async with asyncio.timeout(OBEY_SECONDS):
        while True:
            after = await store.read(scope)
            if after is not None and intents.obey(after.record, wish) == after.record:
                return after
            await asyncio.sleep(LOOK_SECONDS)


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    length = timedelta(**{UNITS[found[2]]: int(found[1])}) if found else timedelta(0)
    if not timedelta(0) < length <= LONGEST_PAUSE:
        raise typer.BadParameter(
            f"{text!r}: give a number and a unit, such as 90s, 30m, 4h or 1d, of at most {LONGEST_PAUSE.days}d. "
            "For longer, set lease.automatic to false",
            param_hint="--for",
        )
    return length


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


@fence.command("show")
def show_fence(
    scope: ScopeArgument,
    settings: SettingsOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask every broker of both sides, as the canaries: may users write, may groups commit, may the mirror write?"""
    _do(scope, settings, partial(_ask_gates, scope, settings, output, False))


@fence.command()
def verify(
    scope: ScopeArgument,
    settings: SettingsOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """As `show`; fails unless every gate is as the lease says. No answer is not taken for closed."""
    _do(scope, settings, partial(_ask_gates, scope, settings, output, True))


async def _ask_gates(
    scope: str,
    settings: Path | None,
    output: Output,
    judge: bool,
    store: LeaseStore,
    _: IntentStore,
    about: ScopeSettings,
) -> None:
    stored = await store.read(scope)
    directory = build_directory(Settings.load(settings_path(settings)))
    rows: list[dict[str, str]] = []
    wrong: dict[int, str] = {}
    try:
        for dc, member in sorted(directory.scope(scope).members.items()):
            record = None if stored is None else stored.record
            wanted = Gate.OPEN if record is not None and leases.users_may_write(record, dc) else Gate.CLOSED
            asked = {"users": member.fence.users_gates, "groups": member.fence.group_gates}
            says = {"users": wanted, "groups": wanted}
            if about.fence is Fence.AUTHORIZER:  # else the mirror has no gate
                asked["mirror"] = member.fence.mirror_gates
                standby = record is not None and role_of(record, dc) is Role.STANDBY
                says["mirror"] = Gate.OPEN if standby else Gate.CLOSED
            try:
                answers = dict(zip(asked, await asyncio.gather(*(ask() for ask in asked.values())), strict=True))
            except UnreachableError as error:
                typer.echo(f"{dc}: {error}", err=True)
                answers = {}
            for broker in sorted({node for gates in answers.values() for node in gates}) or [NOBODY]:
                found = {whose: answers.get(whose, {}).get(broker, Gate.UNKNOWN) for whose in asked}
                name = "?" if broker == NOBODY else str(broker)
                if others := [f"{whose} {gate}" for whose, gate in says.items() if found[whose] is not gate]:
                    wrong[len(rows)] = ", ".join(others)
                rows.append({"dc": dc, "broker": name, **found, "wanted": wanted})
    finally:
        await directory.close()
    if output is Output.JSON:
        typer.echo(json.dumps({"gates": rows, "as_the_lease_says": not wrong}))
    else:
        for number, row in enumerate(rows):
            note = f"   the lease says {wrong[number]}" if number in wrong else ""
            gates = " ".join(f"{whose} {row[whose]:<8}" for whose in ("users", "groups", "mirror") if whose in row)
            typer.echo(f"{row['dc']}  broker {row['broker']}  {gates}{note}".rstrip())
    if judge and wrong:
        raise FenceOpenError(f"{len(wrong)} of {len(rows)} brokers of {scope} are not as the lease says")


class FenceOpenError(TransientError):
    """A gate is not what the lease says: it may still be on its way."""


Work = Callable[[LeaseStore, IntentStore, ScopeSettings], Awaitable[None]]


@asynccontextmanager
async def _stores(about: ScopeSettings) -> AsyncIterator[tuple[LeaseStore, IntentStore]]:
    client = EtcdClient(about.store.endpoints, timeout=about.store.request_timeout)
    try:
        yield EtcdLeaseStore(client, about.store.prefix), EtcdIntentStore(client, about.store.prefix)
    finally:
        await client.close()


def _do(scope: str, settings: Path | None, work: Work) -> NoReturn:
    async def with_store() -> None:
        found = Settings.load(settings_path(settings)).scopes
        if scope not in found:
            raise MisconfiguredError(f"no scope {scope}; known: {', '.join(sorted(found))}")
        async with _stores(found[scope]) as (store, wishes):
            await work(store, wishes, found[scope])

    code = 0
    try:
        asyncio.run(with_store())
    except MisconfiguredError as error:
        code = _said(error, USAGE)
    except TimeoutError:
        code = _said(f"no agent obeyed within {OBEY_SECONDS:.0f} s: is the holder's agent running?", UNREACHABLE)
    except UnreachableError as error:
        code = _said(error, UNREACHABLE)
    except (PermanentError, ConflictError) as error:
        code = _said(error, REFUSED)
    except DcdrError as error:
        code = _said(error, FAILED)
    raise typer.Exit(code)


def _said(what: object, code: int) -> int:
    typer.echo(f"error: {what}", err=True)
    return code


def _show(text: str, stored: StoredLease | None, wish: Intent | None, output: Output) -> None:
    """`text`, or as JSON the record and the intent beside it."""
    found = {
        "lease": stored.record.model_dump(mode="json") if stored else None,
        "revision": stored.revision if stored else None,
        "intent": wish.model_dump(mode="json") if wish else None,
    }
    typer.echo(json.dumps(found) if output is Output.JSON else text)


def _told(scope: str, stored: StoredLease | None, wish: Intent | None) -> str:
    if stored is None:
        return f"{scope}: no lease record; `dcdr lease bootstrap {scope} --holder DC --epoch-floor N` creates it"
    record = stored.record
    lines = [
        f"{scope}: {record.holder} holds the lease, epoch {record.epoch}, phase {record.phase.value}",
        f"  signs of life {record.seq}, operations ended {record.turn}, the mirror may "
        f"{'write to the other side' if record.mirrored else 'not write'}",
    ]
    if record.keeper:
        lines.append(f"  renewed by agent {record.keeper} of {record.holder}")
    if record.last_open and record.phase is Phase.ACQUIRED:
        lines.append(f"  nobody writes: it was taken over, {record.last_open} was open last, and nothing opened since")
    if record.acquired_at is not None:
        after = (
            "" if record.acquired_after_s is None else f", {record.acquired_after_s:.1f} s after the last sign of life"
        )
        lines.append(f"  last taken over {record.acquired_at:%Y-%m-%d %H:%M:%S} UTC{after}")
    if record.behind is not None:
        lines.append(f"  {record.behind} was left by a failover: it takes nothing over until it is failed back")
    if record.pause is not None:
        lines.append(f"  {_paused(record.pause)}")
    if record.op_id:
        until = f", deadline {record.deadline:%H:%M:%S} UTC" if record.deadline else ""
        lines.append(
            f"  unfinished {record.op_kind.value}: {record.op_id}, {record.op_source} to {record.op_target}{until}"
        )
    if wish is not None:
        lines.append(f"  last intent: {wish.ask.value}, operation {wish.operation.id}")
    return "\n".join(lines)


def _paused(pause: Pause) -> str:
    over = "" if datetime.now(UTC) < pause.until else ", which is over"
    kept = "; the holder keeps the lease although its Kafka is unwell" if pause.maintenance else ""
    until = f"{pause.until:%Y-%m-%d %H:%M:%S} UTC"
    return f"takeovers paused until {until}{over}, by {pause.by or '-'}: {pause.reason or '-'}{kept}"
