"""A faithful stand-in of every port: two small Kafkas, their Connects, a lease and an endpoint in one file.

    world = MemoryWorld.create(path)        # the test's hand on the world
    directory = memory_directory(path)      # what a worker gets, in this process or another

State outlives every process that uses it; see `store`.
"""

from adapters.memory.ports import MemoryDirectory, memory_directory
from adapters.memory.world import MemoryWorld, Produced

__all__ = ["MemoryDirectory", "MemoryWorld", "Produced", "memory_directory"]
