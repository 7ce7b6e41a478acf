"""The watch of one scope: it sees the lease move, from several sites at once, and starts what has to follow.

It runs for ever, under one id, and never acts twice. What it does is decided by `dcdr.watching`; here is only how it
looks, and how it starts things:

    lease.watch on every site's own queue, and on the common one  ->  whoever sees a change first
    lease.read_back                                               ->  what stands now, before anything is started
    Failover under the scope's transition id                      ->  if that is taken: `superseded`, wait, look again
    watch.old_side, then Tail under an id of its own              ->  once a failover, when the old side answers
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    TimeoutType,
    WorkflowAlreadyStartedError,
)
from temporalio.exceptions import TimeoutError as TimedOutError

from workflows.transition import SCOPE, reason, transition_id

with workflow.unsafe.imports_passed_through():
    from activities.watch import WatchActivities
    from dcdr import watching
    from dcdr.errors import DcdrError, InvalidRequestError
    from dcdr.model import FailoverRequest, LeaseRecord, TailRequest
    from dcdr.watching import Action, Kind, RunEnd, Seen, Sight, Watching, WatchOrder, WatchState
    from workflows import policies
    from workflows.temporal import TASK_TIMEOUT, site_queue, tail_id, watch_id

ANY = "any"
"""The common queue as a site: where no site has workers of its own, somebody still looks."""
SITE_PAUSE, LONGEST_SITE_PAUSE = timedelta(seconds=2), timedelta(minutes=1)
ASKED_BY = "watch"


@workflow.defn(name="LeaseWatch", failure_exception_types=[DcdrError])
class LeaseWatchWorkflow:
    """Watches the lease of one scope for ever."""

    @workflow.init
    def __init__(self, state: WatchState) -> None:
        self._state = state
        self._looks: dict[str, workflow.ActivityHandle[Seen]] = {}
        self._sites: dict[str, str] = {}
        self._pauses: dict[str, timedelta] = {}
        self._again: dict[str, datetime] = {}
        """When something that failed is tried again: a site, or what waits."""
        self._child: workflow.ChildWorkflowHandle[Any, Any] | None = None
        self._end: workflow.ActivityHandle[RunEnd] | None = None
        self._old_side: workflow.ActivityHandle[bool] | None = None
        self._answers = False
        self._asked = False
        self._first_change = 0

    # --- what people can ask ----------------------------------------------------------------------------------------

    @workflow.query(name="watching", description="What is watched, what was seen last, and what was done.")
    def watching(self) -> Watching:
        return Watching(state=self._state, sites=dict(self._sites), events=workflow.info().get_current_history_length())

    @workflow.update(
        name="check_now", description="Read the lease now and do what it asks for; answers with what it says."
    )
    async def check_now(self) -> str:
        self._asked = True
        await workflow.wait_condition(lambda: not self._asked)
        return str(Sight.of(self._record))

    # --- the watch --------------------------------------------------------------------------------------------------

    @workflow.run
    async def run(self, state: WatchState) -> None:
        _check(state)
        workflow.upsert_search_attributes([SCOPE.value_set(state.scope)])
        self._first_change = state.changes
        await self._read_back()
        while True:
            await self._act()
            self._show()
            if self._is_long():
                await self._go_on_afresh()
            self._arm()
            with suppress(TimeoutError):
                await workflow.wait_condition(self._something, timeout=self._pause())
            self._take_in()
            if self._asked:
                await self._read_back()
                await self._act()
                self._asked = False

    async def _go_on_afresh(self) -> None:
        """Continue as new. Whoever asks for a look just now is answered with the last one: the next run reads first."""
        while not workflow.all_handlers_finished():
            self._asked = False
            await workflow.wait_condition(lambda: self._asked or workflow.all_handlers_finished())
        workflow.continue_as_new(watching.next_run(self._state))

    @property
    def _record(self) -> LeaseRecord:
        assert self._state.record is not None, "the first thing a watch does is to read"
        return self._state.record

    async def _read_back(self) -> None:
        """A read that is sent now, and believed. A scope nobody knows ends the watch, unless it was known before."""
        while True:
            try:
                seen: Seen = await _begin(
                    WatchActivities.read_back,
                    self._state.scope,
                    summary="read the lease back",
                    **policies.READ_BACK,
                )
            except ActivityError as error:
                unknown = isinstance(error.cause, ApplicationError) and error.cause.type == "InvalidRequestError"
                if unknown and not self._state.sites:
                    raise InvalidRequestError(reason(error)) from error
                self._state = watching.failed(self._state)
                self._sites[ANY] = reason(error)
                self._show()
                await workflow.sleep(LONGEST_SITE_PAUSE, summary="the lease could not be read")
            else:
                self._state = watching.trust(self._state, seen)
                return

    # --- acting -----------------------------------------------------------------------------------------------------

    async def _act(self) -> None:
        """Do what the record asks for, until it asks for nothing more; each time after a read-back."""
        while (action := self._decide()).kind is not Kind.NOTHING:
            if action.kind is Kind.TAIL and not self._answers:
                return  # waited for in `_arm`
            await self._read_back()
            if self._decide() != action:
                continue
            match action.kind:
                case Kind.FAILOVER:
                    await self._fail_over(action)
                case Kind.SUPERSEDE:
                    await self._supersede(action)
                case Kind.TAIL:
                    await self._tail(action)

    def _decide(self) -> Action:
        return watching.decide(self._state, self._record, workflow.now())

    async def _fail_over(self, action: Action) -> None:
        """Start it under the id that all operations of a scope share; where that is taken, somebody's run has it."""
        scope = self._state.scope
        try:
            self._child = await workflow.start_child_workflow(
                "Failover",
                FailoverRequest(
                    scope=scope, target=action.target, reason=str(Sight.of(self._record)), requested_by=ASKED_BY
                ),
                id=transition_id(scope),
                task_timeout=TASK_TIMEOUT,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
                static_summary=f"failover of {scope} to {action.target}",
                static_details=f"started by the watch: {Sight.of(self._record)}",
            )
        except WorkflowAlreadyStartedError:
            self._state = watching.taken(self._state)
        else:
            self._state = watching.started(self._state, action, workflow.now())

    async def _supersede(self, action: Action) -> None:
        """Tell whatever runs; a failover, or an operation past its handover, does not heed it. Then its end is due."""
        running = workflow.get_external_workflow_handle(transition_id(self._state.scope))
        try:
            await running.signal("superseded", f"{action.target} took the lease over, epoch {action.epoch}")
        except FailureError as error:  # it has just ended; `transition.ended` will say so
            workflow.logger.info("nothing to supersede: %s", error)
        self._state = watching.told(self._state, action, workflow.now())

    async def _tail(self, action: Action) -> None:
        scope = self._state.scope
        try:
            await workflow.start_child_workflow(
                "Tail",
                TailRequest(scope=scope, requested_by=ASKED_BY),
                id=tail_id(scope),
                task_timeout=TASK_TIMEOUT,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
                static_summary=f"tail that the failover of {scope} left on {self._record.behind}",
            )
        except WorkflowAlreadyStartedError:
            workflow.logger.info("somebody computes the tail of %s already", scope)
        self._answers = False
        self._state = watching.tailing(self._state, action, workflow.now())

    # --- looking ----------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Have everything run that should: a look from each site, and what is waited for."""
        now = workflow.now()
        self._again = {what: at for what, at in self._again.items() if at > now}
        for site in (*self._state.sites, ANY):
            if site not in self._looks and site not in self._again:
                self._looks[site] = self._look_from(site)
        waits = self._state.busy and self._child is None and self._end is None
        if waits and "end" not in self._again:
            self._end = _begin(
                WatchActivities.ended,
                transition_id(self._state.scope),
                activity_id="transition.ended",
                summary="wait for the end of the running operation",
                **policies.WAIT_LONG,
            )
        wanted = self._decide().kind is Kind.TAIL and not self._answers and self._old_side is None
        if wanted and "old side" not in self._again:
            self._old_side = _begin(
                WatchActivities.old_side,
                self._state.scope,
                activity_id="watch.old_side",
                summary=f"wait until {self._record.behind} answers",
                **policies.WAIT_LONG,
            )

    def _look_from(self, site: str) -> workflow.ActivityHandle[Seen]:
        queue = workflow.info().task_queue
        self._sites.setdefault(site, "watching")
        return _begin(
            WatchActivities.watch,
            WatchOrder(scope=self._state.scope, known=Sight.of(self._record)),
            activity_id=f"lease.watch.{site}",
            task_queue=queue if site == ANY else site_queue(site, queue),
            summary=f"watch from {'anywhere' if site == ANY else site}",
            **policies.WATCH,
        )

    def _something(self) -> bool:
        """Whether anything that runs has ended, or somebody asks."""
        waits = (*self._looks.values(), self._child, self._end, self._old_side)
        return self._asked or any(one is not None and one.done() for one in waits)

    def _pause(self) -> timedelta | None:
        """How long at most nothing has to be looked at again by itself."""
        state, now = self._state, workflow.now()
        moments = list(self._again.values())
        if state.not_before is not None and state.not_before > now and not state.busy:
            moments.append(state.not_before)
        return max(min(moments) - now, timedelta(milliseconds=100)) if moments else None

    def _take_in(self) -> None:
        """What has ended since: looks, and waits."""
        for site, look in list(self._looks.items()):
            if look.done():
                del self._looks[site]
                self._looked(site, look)
        if self._child is not None and self._child.done():
            _outcome(self._child.result)
            self._child, self._state = None, watching.ended(self._state, workflow.now())
        if self._end is not None and self._end.done():
            end = _outcome(self._end.result)
            self._end = None
            if end is None:
                self._again["end"] = workflow.now() + SITE_PAUSE
            elif not end.running:
                self._state = watching.ended(self._state, workflow.now())
        if self._old_side is not None and self._old_side.done():
            answer = _outcome(self._old_side.result)
            self._old_side, self._answers = None, bool(answer)
            if answer is None:
                self._again["old side"] = workflow.now() + LONGEST_SITE_PAUSE

    def _looked(self, site: str, look: workflow.ActivityHandle[Seen]) -> None:
        try:
            seen = look.result()
        except ActivityError as error:
            self._state = watching.failed(self._state)
            cause = error.cause
            if isinstance(cause, TimedOutError) and cause.type is TimeoutType.SCHEDULE_TO_START:
                self._sites[site] = f"no worker since {workflow.now():%Y-%m-%d %H:%M} UTC or earlier"
                return  # asked again at once: the order waits in the queue for whoever comes
            self._sites[site] = reason(error)
            pause = self._pauses[site] = min(self._pauses.get(site, SITE_PAUSE / 2) * 2, LONGEST_SITE_PAUSE)
            self._again[site] = workflow.now() + pause
        else:
            self._sites[site] = "watching"
            self._pauses.pop(site, None)
            older = seen.revision < self._state.revision and Sight.of(seen.record) != Sight.of(self._record)
            self._state = watching.saw(self._state, seen)
            # An answer that was long on its way, or a store that was restored: only a read sent now can tell.
            self._asked = self._asked or older

    def _is_long(self) -> bool:
        """Whether this history has grown enough. What is under way ends with it, and the next run reads first."""
        changes = self._state.changes - self._first_change
        return workflow.info().is_continue_as_new_suggested() or changes >= self._state.changes_per_run

    def _show(self) -> None:
        state = self._state
        lines = [f"**{state.scope}**: {Sight.of(self._record)}" if state.record else f"**{state.scope}**: not read yet"]
        if state.changed_at:
            lines.append(f"last change {state.changed_at:%Y-%m-%d %H:%M:%S} UTC, revision {state.revision}")
        if state.acted_at:
            lines.append(f"last action {state.acted_at:%Y-%m-%d %H:%M:%S} UTC: {state.last_action}")
        if state.busy:
            lines.append(f"an operation runs: {transition_id(state.scope)}")
        lines.append("sites: " + ("; ".join(f"{site} {said}" for site, said in self._sites.items()) or "none yet"))
        lines.append(
            f"{state.changes} changes, {state.duplicates} told again, {state.failures} failures, "
            f"{state.failovers} failovers, {state.tails} tails, {state.runs} runs before this one"
        )
        workflow.set_current_details("\n\n".join(lines))


# The SDK's overloads tell sync from async methods by types that a policy's keywords blur.
_begin: Callable[..., workflow.ActivityHandle[Any]] = workflow.start_activity_method


def _outcome(result: Callable[[], Any]) -> Any:
    """What ended well answered; None for what ended otherwise."""
    try:
        return result()
    except (FailureError, asyncio.CancelledError) as error:
        workflow.logger.info("ended: %s", reason(error))
        return None


def _check(state: WatchState | None) -> None:
    """Raises: InvalidRequestError under any other id than the watch's, where a second one could run beside it."""
    if state is None:
        raise InvalidRequestError('the input is null; expected one JSON object such as {"scope": "lab"}')
    found = workflow.info().workflow_id
    if found != watch_id(state.scope):
        raise InvalidRequestError(
            f"the watch of scope {state.scope} runs under the workflow id {watch_id(state.scope)} only, this run has "
            f"{found}: start it again with --workflow-id {watch_id(state.scope)}"
        )
