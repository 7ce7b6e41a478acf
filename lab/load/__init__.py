"""The load generator: numbered records in, every attempt and its outcome on disk.

It imports nothing of the product: what it says about a switchover is said from outside.
"""

from lab.load.config import ClientManners, Credentials, GroupRole, Kind, LoadConfig
from lab.load.outage import Outage, median_and_worst, outages, read_acks
from lab.load.process import Load
from lab.load.runner import LoadError

__all__ = [
    "ClientManners",
    "Credentials",
    "GroupRole",
    "Kind",
    "Load",
    "LoadConfig",
    "LoadError",
    "Outage",
    "median_and_worst",
    "outages",
    "read_acks",
]
