"""A warm tail of a small compacted topic: everything in it is known already, and a look costs one Fetch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from adapters.kafka.reader import LogReader, Position
from adapters.kafka.records import Record
from adapters.kafka.wire import Wire
from dcdr.errors import InvalidRequestError, MisconfiguredError, UnreachableError
from dcdr.model import TopicPartition

CATCH_UP: Final = timedelta(seconds=5)
"""For reading what is new on a tail that was kept warm; the first read of a long topic, `warm`'s, may take longer."""
WARM: Final = timedelta(minutes=2)


class Tail:
    """Reads all partitions of `topic` read_committed, hands each record to `apply` once, in order per partition.

    `clear` is called before the topic is read again from its start, because somebody has created it anew.
    """

    def __init__(
        self,
        wire: Wire,
        topic: str,
        apply: Callable[[TopicPartition, Record], None],
        clear: Callable[[], None],
        *,
        lane: str,
    ) -> None:
        self._wire = wire
        self._topic = topic
        self._apply = apply
        self._clear = clear
        self._reader = LogReader(wire, lane=lane)
        self._topic_id = ""
        self._at: dict[TopicPartition, int] = {}
        self._lock = asyncio.Lock()

    async def catch_up(self, within: timedelta = CATCH_UP) -> None:
        """Read to the last stable offset as it is now or later: what was committed before this call is applied.

        Raises: UnreachableError when that is not done `within` the time; what was read stays applied.
        """
        try:
            async with asyncio.timeout(within.total_seconds()), self._lock:
                known = self._wire.known_topics.get(self._topic)
                if not self._at or (known is not None and known.topic_id != self._topic_id):
                    await self._begin()
                # A Fetch answers with the last stable offset of the moment it was processed, which is after this
                # call began: whoever has read up to it knows everything that was committed before.
                behind = dict(self._at)
                while behind:
                    slices = await self._reader.fetch({p: Position(at) for p, at in behind.items()})
                    for partition, read in slices.items():
                        for record in read.records:
                            self._apply(partition, record)
                        self._at[partition] = behind[partition] = read.next
                        if read.next > read.lso:
                            # The log ends before what we have read: it is another topic of the same name.
                            await self._begin()
                            behind = dict(self._at)
                            break
                        if read.next == read.lso:
                            del behind[partition]
        except TimeoutError as error:
            raise UnreachableError(
                f"{self._wire.dc}: {self._topic} was not read to its end within {within.total_seconds():g} s; "
                "if the topic has grown long, check that it is compacted"
            ) from error
        except InvalidRequestError as error:
            raise MisconfiguredError(f"{error}; {self._topic} has to exist before anything is started") from error

    async def _begin(self) -> None:
        topic = (await self._wire.metadata([self._topic])).get(self._topic)
        if topic is None:
            raise MisconfiguredError(
                f"{self._wire.dc}: there is no topic {self._topic!r}; create it, compacted, or correct the settings"
            )
        self._clear()
        self._topic_id = topic.topic_id
        self._at = {TopicPartition(self._topic, number): 0 for number in topic.leaders}
