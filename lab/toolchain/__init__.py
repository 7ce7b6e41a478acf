"""Deliver the lab's real servers: Kafka by Maven, etcd, toxiproxy and kube-apiserver by Go, Temporal from the venv.

    toolchain = ensure()                      # builds what is missing; milliseconds when nothing is
    subprocess.Popen([toolchain.java, "-cp", toolchain.kafka_classpath, "kafka.Kafka", ...])

Only the standard library is used, so that `make` can start the long builds before the virtual environment exists.
"""

from lab.toolchain.build import Part, Toolchain, ToolchainError, ensure

__all__ = ["Part", "Toolchain", "ToolchainError", "ensure"]
