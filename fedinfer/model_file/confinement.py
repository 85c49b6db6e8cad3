"""A process confines itself: no file, no network, no other process, bounded memory. Linux, as far as its kernel can.

Three mechanisms, each by itself enough against a model that wants to open something:
* resource limits (setrlimit): memory beyond what is in use, processor time, no new descriptor, no file grows;
* Landlock (kernel 5.13, documentation "userspace-api/landlock"): a rule set that allows no place at all;
* seccomp (kernel 3.17, "userspace-api/seccomp_filter"): a list of system calls; all others answer EPERM, in all
  threads of the process.

None of them can be undone: only a process of its own calls `confine`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from dataclasses import dataclass

_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446  # the same on all architectures
_VERSION_FLAG = 1
_NO_NEW_PRIVS, _GET_SECCOMP = 38, 21  # prctl
_SET_FILTER, _ALL_THREADS = 1, 1  # seccomp: operation and flag
_ALLOW, _EPERM, _KILL = 0x7FFF0000, 0x00050001, 0x80000000
_X32 = 0x40000000
_DESCRIPTORS = 3  # standard input, output, error: nothing can be opened beside them

# Number of each system call that a running interpreter needs to read its pipe, compute, and write its answer.
_X86_64 = {
    "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
    "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24, "mremap": 25,
    "madvise": 28, "nanosleep": 35, "getpid": 39, "exit": 60, "getrusage": 98, "sysinfo": 99, "sigaltstack": 131,
    "gettid": 186, "futex": 202, "sched_getaffinity": 204, "restart_syscall": 219, "clock_gettime": 228,
    "clock_nanosleep": 230, "exit_group": 231, "set_robust_list": 273, "getcpu": 309, "getrandom": 318,
    "membarrier": 324, "rseq": 334,
}  # fmt: skip
_AARCH64 = {
    "close": 57, "lseek": 62, "read": 63, "write": 64, "ppoll": 73, "fstat": 80, "exit": 93, "exit_group": 94,
    "futex": 98, "set_robust_list": 99, "nanosleep": 101, "clock_gettime": 113, "clock_nanosleep": 115,
    "sched_getaffinity": 123, "sched_yield": 124, "restart_syscall": 128, "sigaltstack": 132, "rt_sigaction": 134,
    "rt_sigprocmask": 135, "rt_sigreturn": 139, "getrusage": 165, "getcpu": 168, "getpid": 172, "gettid": 178,
    "sysinfo": 179, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222, "mprotect": 226, "madvise": 233,
    "getrandom": 278, "membarrier": 283, "rseq": 293,
}  # fmt: skip
# Number of the architecture, number of the system call seccomp, allowed calls.
_MACHINES = {"x86_64": (0xC000003E, 317, _X86_64), "aarch64": (0xC00000B7, 277, _AARCH64)}


@dataclass(frozen=True, slots=True)
class Confinement:
    """Which mechanisms a process can use, or is confined by.

    Args:
        limits: resource limits of the process.
        landlock: version of Landlock's interface; 0: not there.
        seccomp: system calls can be filtered on this processor.
    """

    limits: bool
    landlock: int
    seccomp: bool

    @property
    def closed(self) -> bool:
        """No file and no socket can be opened."""
        return self.limits and (self.landlock > 0 or self.seccomp)


def available() -> Confinement:
    """The mechanisms of this machine; changes nothing."""
    if not sys.platform.startswith("linux"):
        return Confinement(os.name == "posix", 0, False)
    seccomp = platform.machine() in _MACHINES and _libc().prctl(_GET_SECCOMP, 0, 0, 0, 0) >= 0
    return Confinement(True, max(_libc().syscall(_LANDLOCK_CREATE, None, 0, _VERSION_FLAG), 0), seccomp)


def confine(memory_bytes: int, processor_seconds: int) -> Confinement:
    """Confine this process for the rest of its life.

    Args:
        memory_bytes: address space that it may take beyond what it has, > 0.
        processor_seconds: processor time that it may use beyond what it has used, > 0.

    Returns:
        The mechanisms that hold from now on.
    """
    locks = available()
    if locks.limits:
        _limit(memory_bytes, processor_seconds)
    if locks.landlock or locks.seccomp:
        locked = _libc().prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        landlock = locks.landlock if locked and locks.landlock and _restrict(locks.landlock) else 0
        locks = Confinement(locks.limits, landlock, locked and locks.seccomp and _filter())
    return locks


def _limit(memory_bytes: int, processor_seconds: int) -> None:
    import resource  # not on every platform

    used = resource.getrusage(resource.RUSAGE_SELF)
    time = int(used.ru_utime + used.ru_stime) + processor_seconds + 1
    for what, most in (
        (resource.RLIMIT_AS, _address_space() + memory_bytes),
        (resource.RLIMIT_CPU, time),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _lower(what, most)
    # Landlock needs one descriptor for its rule set; the limit counts from the next one on.
    _lower(resource.RLIMIT_NOFILE, _DESCRIPTORS + 1)


def _lower(what: int, most: int) -> None:
    import resource

    hard = resource.getrlimit(what)[1]
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (bound, bound))


def _address_space() -> int:
    """Bytes of address space in use; where nobody says it, a value that an interpreter with its runtime stays below."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 2**31


def _restrict(version: int) -> bool:
    """Landlock: everything that this version can forbid is forbidden everywhere."""
    files = (1 << 13) - 1 | sum(1 << bit for bit, since in ((13, 2), (14, 3), (15, 5)) if version >= since)
    network, scopes = (0b11 if version >= 4 else 0), (0b11 if version >= 6 else 0)
    attributes = struct.pack("<QQQ", files, network, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _libc().syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0)
    if rules < 0:
        return False
    try:
        return bool(_libc().syscall(_LANDLOCK_RESTRICT, rules, 0) == 0)
    finally:
        os.close(rules)


def _filter() -> bool:
    """Seccomp: a program in classic BPF that looks at architecture and number of each call."""
    architecture, seccomp, calls = _MACHINES[platform.machine()]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    program = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (answer, 0, 0, _KILL),
        (load, 0, 0, 0),
        (at_least, 0, 1, _X32),
        (answer, 0, 0, _EPERM),
    ]
    for number in sorted(calls.values()):
        program += [(equal, 0, 1, number), (answer, 0, 0, _ALLOW)]
    program.append((answer, 0, 0, _EPERM))
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in program))
    packed = struct.pack("@HxxxxxxQ", len(program), ctypes.addressof(code))
    return bool(_libc().syscall(seccomp, _SET_FILTER, _ALL_THREADS, packed) == 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
