"""One data center's Kafka cluster, behind the ports that `KafkaCluster` lists.

cluster    KafkaCluster: the ports together, warm and closed as one
wire       requests to the broker we mean, each bounded
messages   Kafka's messages at pinned versions (kafka-python's generated classes)
reader     read_committed reading with single Fetch requests; records unpacks them
tail       a topic kept in memory (ledger, positions)
"""

from adapters.kafka.cluster import KafkaCluster

__all__ = ["KafkaCluster"]
