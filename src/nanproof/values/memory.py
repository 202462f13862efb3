"""How much memory this machine has, and the refusal of tensors that could never fit into it.

Linux grants more memory than there is and kills the process when the memory is used, so that waiting for an allocation
to fail is not enough: a damaged or hostile model could name any size. The rule is simple: a single tensor larger than
all the memory of the machine (or of the container that the process runs in) is refused before anything is allocated.
Whether all tensors of a run fit beside each other is not foreseen.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["affordable", "memory_of_this_machine"]

_CONTAINER = Path("/sys/fs/cgroup/memory.max")


@cache
def memory_of_this_machine() -> int:
    """Bytes of physical memory, or of the container's limit if that is less; without end where neither is known."""
    sizes: list[int] = []
    with suppress(AttributeError, OSError, ValueError):  # Windows has no sysconf
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # there is no file, or "max" in it
        sizes.append(int(_CONTAINER.read_text(encoding="ascii")))
    return min((s for s in sizes if s > 0), default=2**63)


def affordable(sizes: Iterable[int], element_bytes: int = 4) -> list[int]:
    """The sizes of a tensor that is about to be made, as they were passed.

    Raises:
        MemoryError: The tensor would be larger than the memory of this machine.
    """
    shape = list(sizes)
    needed, limit = math.prod(shape) * element_bytes, memory_of_this_machine()
    if min(shape, default=0) >= 0 and needed > limit:
        raise MemoryError(
            f"a tensor of shape {shape} would take {needed / 2**30:,.0f} GiB, and this machine has "
            f"{limit / 2**30:,.0f} GiB"
        )
    return shape
