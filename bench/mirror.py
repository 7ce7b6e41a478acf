"""How far the standby's mirror is behind, asked of the servers and not of the product."""

from __future__ import annotations

import httpx
from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec

from lab import Lab, connect
from lab.addresses import other
from lab.errors import LabError
from lab.load.estate import TOPICS
from lab.waiting import wait_for

ANSWER_S, CATCH_UP_S, LOOK_S = 10.0, 180.0, 1.0


def behind(lab: Lab, active: str) -> int:
    """Offsets that the load's topics have on `active` and the mirror has not copied; markers count.

    Raises: LabError when Connect does not answer.
    """
    admin, standby = lab.admin(active), other(active)
    topics = admin.list_topics(timeout=ANSWER_S).topics
    places = [TopicPartition(name, number) for name in TOPICS for number in topics[name].partitions]
    futures = admin.list_offsets({place: OffsetSpec.latest() for place in places}, request_timeout=ANSWER_S)
    ends = {(place.topic, place.partition): future.result(ANSWER_S).offset for place, future in futures.items()}
    name = connect.connector_name("source", active)
    try:
        answer = httpx.get(f"{lab.connect_url(standby)}/connectors/{name}/offsets", timeout=ANSWER_S)
        rows = answer.raise_for_status().json()["offsets"]
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise LabError(f"Connect of {standby} does not tell the offsets of {name}: {error!r}") from error
    copied = {(row["partition"]["topic"], row["partition"]["partition"]): row["offset"]["offset"] + 1 for row in rows}
    return sum(max(0, end - copied.get(place, 0)) for place, end in ends.items())


def wait_until_close(lab: Lab, active: str, limit: int) -> None:
    """Wait until at most `limit` offsets are missing. Raises: LabError after three minutes."""
    seen = -1

    def close() -> bool:
        nonlocal seen
        seen = behind(lab, active)
        return seen <= limit

    wait_for(f"the mirror of {active} catching up", close, CATCH_UP_S, every_s=LOOK_S, hint=lambda: f": {seen} behind")
