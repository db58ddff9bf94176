"""Native code for the CPU: the files here, compiled on the machine that runs it.

It is never required. Without a compiler, or with `TUNEWRIGHT_NATIVE=0`, plain torch does the same
work in more time and memory.
"""

from tunewright.native.build import Native, keeper, native, native_for, why_not

__all__ = ["Native", "keeper", "native", "native_for", "why_not"]
