"""The checker against a lab, in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from confluent_kafka import KafkaException

from lab.check.logs import CALL_S, Cluster, ReadError
from lab.check.loss import Loss
from lab.check.model import Demands
from lab.check.run import Checked, check
from lab.load.clients import common, topic_ids
from lab.load.config import Credentials
from lab.load.estate import Estate
from lab.load.journal import RunInfo

Say = Callable[[str], None]


def clusters_of(estate: Estate, reader: Credentials) -> list[Cluster]:
    """How to read each member, inside its site: faults of the links do not reach that way."""
    return [Cluster(member, common(estate.address(member, "internal"), reader)) for member in estate.members]


def current_runs(estate: Estate, clusters: Sequence[Cluster], say: Say) -> list[Path]:
    """The lab's runs whose topics still stand; a run from before `dcdr lab reset` says nothing about what is there now.

    Raises: ReadError when a cluster does not answer.
    """
    folders = estate.run_folders()
    infos = {folder: RunInfo.read(folder) for folder in folders}
    topics = {topic for info in infos.values() for topic in info.topics}
    try:
        now = dict(topic_ids(cluster.settings, topics, CALL_S) for cluster in clusters)
    except KafkaException as error:
        raise ReadError(f"a cluster of lab {estate.home.name} does not answer: {error}") from None
    current = []
    for folder, info in infos.items():
        if all(
            now.get(cluster, {}).get(topic) == then
            for cluster, ids in info.topic_ids.items()
            for topic, then in ids.items()
        ):
            current.append(folder)
        else:
            say(f"run {folder.name} is left out: its topics were made anew since")
    return current


def check_lab(
    name: str,
    folders: Sequence[Path] = (),
    demands: Demands | None = None,
    active: str | None = None,
    catch_up_s: float = 30.0,
    say: Say = lambda line: None,
    loss: Loss | None = None,
) -> Checked:
    """Judge runs of a lab (default: all that its present topics were written by).

    The active side is the one its endpoint leads to, unless named. Raises: LabError, JournalError, ReadError.
    """
    estate = Estate.open(name)
    reader = estate.credentials("admin")
    clusters = clusters_of(estate, reader)
    where = active or common(estate.bootstrap, reader)
    return check(list(folders) or current_runs(estate, clusters, say), clusters, where, demands, catch_up_s, say, loss)
