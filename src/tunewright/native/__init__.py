"""Native code for the CPU: the C files here, compiled on the machine that runs it.

It is never required. Without a C compiler, or with `TUNEWRIGHT_NATIVE=0`, plain torch does the
same work in more time.
"""

from tunewright.native.build import Native, native, native_for, why_not

__all__ = ["Native", "native", "native_for", "why_not"]
