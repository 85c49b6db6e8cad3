"""A process confines itself: no file, no network, no other process, bounded memory. Linux, as far as its kernel can.

Three mechanisms, each by itself enough against a model that wants to open something:
* resource limits (setrlimit): memory beyond what is in use, processor time, no new descriptor, no file grows;
* Landlock (kernel 5.13, documentation "userspace-api/landlock"): a rule set that allows no place at all;
* seccomp (kernel 3.17, "userspace-api/seccomp_filter"): a list of system calls; all others answer EPERM, in all
  threads of the process.

None of them can be undone: only a process of its own calls `confine`. A process that has to write files on its way gets
a room: one folder for itself, and folders of programs that it may read. It may start threads then, but no process.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from dataclasses import dataclass

from fedinfer.model_file.system_calls import MACHINES, Machine

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on all architectures
_VERSION_FLAG, _BELOW = 1, 1
_READ_FILE, _READ_FOLDER, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_ON_FOLDERS = _READ_FOLDER | 0x1FF0 | 1 << 13  # rights that make no sense for a file: list, make, remove, move
_NO_NEW_PRIVS, _GET_SECCOMP = 38, 21  # prctl
_SET_FILTER, _ALL_THREADS = 1, 1  # seccomp: operation and flag
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_X32 = 0x40000000
_CLONE_THREAD = 0x00010000
_DESCRIPTORS = 3  # standard input, output, error: nothing can be opened beside them
_ROOM_DESCRIPTORS = 64


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


@dataclass(frozen=True, slots=True)
class Room:
    """Files of a confined process that cannot do without any.

    Args:
        folder: its own, empty at first: everything may be done in it.
        programs: folders and files that it may read, because modules and libraries are loaded from there; what does not
            exist is left out.
        file_bytes: largest file that it may write.
    """

    folder: str
    programs: tuple[str, ...]
    file_bytes: int


def available() -> Confinement:
    """The mechanisms of this machine; changes nothing."""
    if not sys.platform.startswith("linux"):
        return Confinement(os.name == "posix", 0, False)
    seccomp = platform.machine() in MACHINES and _libc().prctl(_GET_SECCOMP, 0, 0, 0, 0) >= 0
    return Confinement(True, max(_libc().syscall(_LANDLOCK_CREATE, None, 0, _VERSION_FLAG), 0), seccomp)


def confine(memory_bytes: int, processor_seconds: int, room: Room | None = None) -> Confinement:
    """Confine this process for the rest of its life.

    Args:
        memory_bytes: address space that it may take beyond what it has, > 0.
        processor_seconds: processor time that it may use beyond what it has used, > 0.
        room: files that it may reach; None: none at all. Without Landlock nothing holds it to them.

    Returns:
        The mechanisms that hold from now on.
    """
    locks = available()
    if locks.limits:
        _limit(memory_bytes, processor_seconds, room)
    if locks.landlock or locks.seccomp:
        locked = _libc().prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        landlock = locks.landlock if locked and locks.landlock and _restrict(locks.landlock, room) else 0
        locks = Confinement(locks.limits, landlock, locked and locks.seccomp and _filter(room))
    return locks


def _limit(memory_bytes: int, processor_seconds: int, room: Room | None) -> None:
    import resource  # not on every platform

    used = resource.getrusage(resource.RUSAGE_SELF)
    time = int(used.ru_utime + used.ru_stime) + processor_seconds + 1
    for what, most in (
        (resource.RLIMIT_AS, _address_space() + memory_bytes),
        (resource.RLIMIT_CPU, time),
        (resource.RLIMIT_FSIZE, room.file_bytes if room else 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _lower(what, most)
    # Landlock needs one descriptor for its rule set; the limit counts from the next one on.
    _lower(resource.RLIMIT_NOFILE, _ROOM_DESCRIPTORS if room else _DESCRIPTORS + 1)


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


def _restrict(version: int, room: Room | None) -> bool:
    """Landlock: everything that this version can forbid is forbidden everywhere but in the room."""
    files = (1 << 13) - 1 | sum(1 << bit for bit, since in ((13, 2), (14, 3), (15, 5)) if version >= since)
    network, scopes = (0b11 if version >= 4 else 0), (0b11 if version >= 6 else 0)
    attributes = struct.pack("<QQQ", files, network, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _libc().syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0)
    if rules < 0:
        return False
    try:
        if room is not None:
            _allow(rules, room.folder, files)
            for place in room.programs:
                _allow(rules, place, _READ_FILE | _READ_FOLDER)
            _allow(rules, os.devnull, _READ_FILE | _WRITE_FILE)
        return bool(_libc().syscall(_LANDLOCK_RESTRICT, rules, 0) == 0)
    finally:
        os.close(rules)


def _allow(rules: int, place: str, rights: int) -> None:
    """One rule: these rights below a folder, or on a file."""
    if not os.path.exists(place):
        return
    rights &= -1 if os.path.isdir(place) else ~_ON_FOLDERS
    descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        _libc().syscall(_LANDLOCK_ADD, rules, _BELOW, struct.pack("<Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _filter(room: Room | None) -> bool:
    """Seccomp: a program in classic BPF that looks at architecture and number of each call."""
    machine = MACHINES[platform.machine()]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    program = [
        (load, 0, 0, 4),
        (equal, 1, 0, machine.architecture),
        (answer, 0, 0, _KILL),
        (load, 0, 0, 0),
        (at_least, 0, 1, _X32),
        (answer, 0, 0, _EPERM),
    ]
    for number in sorted({**machine.calls, **(machine.room_calls if room else {})}.values()):
        program += [(equal, 0, 1, number), (answer, 0, 0, _ALLOW)]
    program += _threads(machine) if room else []
    program.append((answer, 0, 0, _EPERM))
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in program))
    packed = struct.pack("@HxxxxxxQ", len(program), ctypes.addressof(code))
    return bool(_libc().syscall(machine.seccomp, _SET_FILTER, _ALL_THREADS, packed) == 0)


def _threads(machine: Machine) -> list[tuple[int, int, int, int]]:
    """Threads are allowed, processes are not; clone3 does not exist, so that the C library asks clone."""
    load, both, equal, answer = 0x20, 0x54, 0x15, 0x06
    return [
        (equal, 0, 1, machine.clone3),
        (answer, 0, 0, _ENOSYS),
        (equal, 0, 4, machine.clone),
        (load, 0, 0, 16),  # the low half of the first argument
        (both, 0, 0, _CLONE_THREAD),
        (equal, 0, 1, _CLONE_THREAD),
        (answer, 0, 0, _ALLOW),
    ]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
