"""The real world, small: two Kafka sites, an arbiter, and the faults between them.

from lab import Lab
lab = Lab.open("dev")
lab.fault.cut("dc-b->dc-a:kafka")
lab.process("connect-dc-b").kill()
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.estate import Lab

__all__ = ["Lab"]


def __getattr__(name: str) -> Any:
    # Late, because `lab.toolchain` must be importable before the virtual environment exists.
    if name == "Lab":
        from lab.estate import Lab

        return Lab
    raise AttributeError(f"module 'lab' has no attribute {name!r}")
