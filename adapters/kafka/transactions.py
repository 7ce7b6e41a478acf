"""Open transactions of one cluster: found at every coordinator, ended by taking their ids over."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from adapters.kafka import messages
from adapters.kafka.trouble import CONCURRENT_TRANSACTIONS, TRANSACTIONAL_ID_NOT_FOUND, refusal
from adapters.kafka.wire import ACT, TRANSACTION_COORDINATOR, Refused, Wire, together
from dcdr.model import OpenTransaction, TopicPartition

OPEN_STATES: Final = ("Ongoing", "PrepareCommit", "PrepareAbort")
"""Begun and not ended: markers may still be written, and the last stable offset waits for them."""
_TRANSACTION_TIMEOUT_MS: Final = 60_000
"""Nothing is ever written under the ids we take over, so any value the broker accepts will do."""


class KafkaTransactions:
    """`dcdr.ports.Transactions` of one cluster."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def open(self) -> tuple[OpenTransaction, ...]:
        """ListTransactions at every broker, then DescribeTransactions where there are any.

        Raises: UnreachableError when a broker is silent: the ones it coordinates would be missing.
        """
        await self._wire.metadata()
        answers = await self._wire.all(
            self._wire.known_nodes,
            lambda node: messages.LIST_TRANSACTIONS(state_filters=list(OPEN_STATES), producer_id_filters=[]),
        )
        listed: dict[int, list[str]] = {}
        for node, answer in answers.items():
            if answer.error_code:
                raise refusal(self._wire.dc, answer.error_code, f"listing transactions at broker {node}")
            if answer.transaction_states:
                listed[node] = [state.transactional_id for state in answer.transaction_states]
        described = await together(
            self._wire.call(node, messages.DESCRIBE_TRANSACTIONS(transactional_ids=ids)) for node, ids in listed.items()
        )
        found = []
        for state in (state for answer in described for state in answer.transaction_states):
            if state.error_code == TRANSACTIONAL_ID_NOT_FOUND:
                continue  # expired in between
            if state.error_code:
                raise refusal(self._wire.dc, state.error_code, f"describing the transaction {state.transactional_id!r}")
            if state.transaction_state in OPEN_STATES:
                partitions = (TopicPartition(t.topic, p) for t in state.topics for p in t.partitions)
                found.append(
                    OpenTransaction(
                        state.transactional_id, state.producer_id, state.transaction_state, tuple(sorted(partitions))
                    )
                )
        return tuple(sorted(found))

    async def fence(self, transactional_ids: Collection[str]) -> None:
        """InitProducerId for each id at its coordinator; returns once every open transaction among them is aborted.

        The first answer is CONCURRENT_TRANSACTIONS while the abort's markers are written: the question is repeated.
        """

        async def take(node: int, ids: Sequence[str]) -> Mapping[str, bool | Refused]:
            answers = await together(
                self._wire.call(
                    node,
                    messages.INIT_PRODUCER_ID(
                        transactional_id=each,
                        transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
                        producer_id=-1,
                        producer_epoch=-1,
                    ),
                    lane=ACT,
                )
                for each in ids
            )
            return {
                each: Refused(answer.error_code) if answer.error_code else True
                for each, answer in zip(ids, answers, strict=True)
            }

        await self._wire.by_coordinator(
            TRANSACTION_COORDINATOR, transactional_ids, take, "fencing", retry=(CONCURRENT_TRANSACTIONS,)
        )
