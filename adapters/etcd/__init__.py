"""The lease store in etcd, and the intents beside it.

lease    EtcdLeaseStore: `dcdr.ports.LeaseStore`
intents  EtcdIntentStore: `dcdr.ports.IntentStore`
client   EtcdClient: reads, compare-and-swap and watches over several members
_pb      etcd's messages, generated from the part of its API we use; the command stands in `etcd.proto`
"""

from adapters.etcd.client import EtcdClient
from adapters.etcd.intents import EtcdIntentStore
from adapters.etcd.lease import EtcdLeaseStore

__all__ = ["EtcdClient", "EtcdIntentStore", "EtcdLeaseStore"]
