"""The lease store in etcd.

lease    EtcdLeaseStore: `dcdr.ports.LeaseStore`
client   EtcdClient: reads, compare-and-swap and watches over several members
_pb      etcd's messages, generated from the part of its API we use; the command stands in `etcd.proto`
"""

from adapters.etcd.client import EtcdClient
from adapters.etcd.lease import EtcdLeaseStore

__all__ = ["EtcdClient", "EtcdLeaseStore"]
