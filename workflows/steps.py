"""The steps by name: what the UI shows, what the report lists, what the tests kill a worker in."""

from __future__ import annotations

from typing import NamedTuple


class Step(NamedTuple):
    """`name` is the activity's name and id; `title` is what a person reads; `{source}` and `{target}` are filled in."""

    name: str
    title: str
    in_outage: bool = False


LEFTOVER = Step("lease.leftover", "look for an unfinished operation")
MIRRORS = Step("status.mirrors", "name the mirrors")
PREFLIGHT = Step("status.preflight", "preflight: may {target} take over?")

BEGIN = Step("lease.begin", "write the intent")
STOP_CHECKPOINT = Step("checkpoint.stop", "stop the checkpoint connector {source} to {target}")
CLOSE = Step("fence.close", "close users on {source}", True)
FREEZE = Step("groups.freeze", "freeze consumer groups on {source}", True)
TRANSACTIONS = Step("transactions.fence", "fence open transactions on {source}", True)
CUT = Step("cut.take", "settle {source} and take the cut", True)
GROUPS = Step("groups.keep", "keep where consumer groups stand on {source}", True)
DRAIN = Step("drain.prove", "prove the drain {source} to {target}", True)
CLOSE_MIRROR = Step("mirror.close", "close the mirror on {target}, write the ledger", True)
HAND_OVER = Step("lease.hand_over", "last look, then hand the lease to {target}", True)
OPEN = Step("fence.open", "open users on {target}", True)
FLIP = Step("endpoint.flip", "flip the endpoint to {target}", True)
PLACE = Step("groups.place", "place consumer groups on {target}")
OPEN_GROUPS = Step("groups.open", "let consumers in on {target}")
RETIRE = Step("mirror.retire", "stop the mirror {source} to {target}")
SEED = Step("mirror.seed", "seed the mirror {target} to {source}")
START = Step("mirror.start", "start the mirror {target} to {source}")
VERIFY = Step("source.verify", "look at {source} once more")
FINISH = Step("lease.finish", "clear the operation id")

REOPEN_LEASE = Step("lease.reopen", "take the intent back")
REOPEN = Step("fence.reopen", "open users on {source} again")
THAW = Step("groups.thaw", "let consumers in on {source} again")
RESTORE = Step("mirror.restore", "restart the mirror's tasks")
RESUME_CHECKPOINT = Step("checkpoint.resume", "resume the checkpoint connector")

OBSERVE = Step("failover.observe", "look at the lease")
ASK = Step("failover.ask", "ask {target} to take the lease over")
TAKE_UP = Step("failover.take_up", "take the failover up", True)
SHUT_MIRROR = Step("failover.fence", "close the mirror {source} to {target}", True)
RECORD = Step("failover.record", "write down where {source} and {target} part", True)
OPEN_UP = Step("failover.open_up", "have the lease open {target}", True)
POSITIONS = Step("failover.groups", "see where consumer groups stand on {target}")
CLOSE_SOURCE = Step("failover.source", "close {source}, if it answers")
STANDS = Step("failover.stands", "wait for an answer, or for the lease to move on")
BRING_BACK = Step("failover.restore", "bring the mirror {source} to {target} back")
CLOSE_BEHIND = Step("tail.close", "close the side left behind, members put out")
TAIL = Step("tail.compute", "compute the tail of the side left behind")
KEYS = Step("tail.keys", "read the keys of lost records")

TO_THE_HANDOVER = (
    BEGIN,
    STOP_CHECKPOINT,
    CLOSE,
    FREEZE,
    TRANSACTIONS,
    CUT,
    GROUPS,
    DRAIN,
    CLOSE_MIRROR,
    HAND_OVER,
)
FORWARD = (OPEN, FLIP, PLACE, OPEN_GROUPS, RETIRE, SEED, VERIFY, START, FINISH)
SWITCHOVER = TO_THE_HANDOVER + FORWARD
UNDO = (REOPEN_LEASE, REOPEN, THAW, RESTORE, RESUME_CHECKPOINT, FINISH)
FAILOVER = (
    TAKE_UP,
    SHUT_MIRROR,
    RECORD,
    OPEN_UP,
    OPEN,
    FLIP,
    POSITIONS,
    OPEN_GROUPS,
    RETIRE,
    CLOSE_SOURCE,
    FINISH,
)
