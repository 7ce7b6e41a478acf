"""The checker: reads both clusters' logs and the load's outcome logs, and judges.

It imports nothing of the product.
"""

from lab.check.judge import judge
from lab.check.logs import Cluster, ReadError
from lab.check.loss import Loss
from lab.check.model import Anomaly, Demands, Evidence, Kind, Verdict
from lab.check.run import Checked, check

__all__ = [
    "Anomaly",
    "Checked",
    "Cluster",
    "Demands",
    "Evidence",
    "Kind",
    "Loss",
    "ReadError",
    "Verdict",
    "check",
    "judge",
]
