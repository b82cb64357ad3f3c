"""What a worker process frees, it uses again."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)


def keep_freed_memory(*_: int) -> None:
    """Gives large blocks back to the system no more when they are freed.

    A worker takes and frees blocks of about a megabyte, many for each row. Where each
    comes from the system anew, clearing its pages is a sixth of the worker's time.
    What is kept is as much as was in use at once. With another C library than glibc
    nothing changes.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        adjust(MMAP_THRESHOLD, 2**25)  # bytes; larger ones it does not take
        adjust(TRIM_THRESHOLD, 2**30)
