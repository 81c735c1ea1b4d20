"""What the C library does with freed memory, which shows in times and in peaks."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # glibc's malloc.h


def keep_memory() -> bool:
    """Let freed memory stay with the process, so that page faults are no part of a time.

    Returns:
        Whether the C library could be told; only glibc can.
    """
    return _told((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 256 << 20))


def give_back_memory() -> bool:
    """Let every freed block from 64 KiB leave the process, so that a peak is of what is in use.

    Returns:
        As :func:`keep_memory`.
    """
    return _told((M_MMAP_THRESHOLD, 64 << 10))


def _told(*wishes: tuple[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(key, value) for key, value in wishes])
