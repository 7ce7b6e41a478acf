"""The witnesses of "never two writable clusters": the gates' own trace, the load's acknowledgements, and a prober.

They are independent of each other, and none imports anything of the product: what they say is said from outside.
"""

from lab.witness.evidence import gather
from lab.witness.judge import Closing, Evidence, Finding, Kind, Verdict, judge
from lab.witness.process import Witness

__all__ = ["Closing", "Evidence", "Finding", "Kind", "Verdict", "Witness", "gather", "judge"]
