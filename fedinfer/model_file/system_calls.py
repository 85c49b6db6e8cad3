"""Numbers of the system calls that a confined process may make, by processor (Linux, asm/unistd.h)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """What differs between processors.

    Args:
        architecture: number of the architecture (linux/audit.h).
        seccomp: number of the call `seccomp`.
        calls: that a running interpreter needs to read its pipe, compute, and write its answer.
        room_calls: further ones of a process that has a folder to work in; Landlock says which files they reach.
        clone: makes a thread or a process, which its first argument tells apart.
        clone3: the same with its arguments in memory, where no filter looks.
    """

    architecture: int
    seccomp: int
    calls: dict[str, int]
    room_calls: dict[str, int]
    clone: int
    clone3: int = 435


MACHINES = {
    "x86_64": Machine(
        architecture=0xC000003E,
        seccomp=317,
        calls={
            "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10,
            "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24,
            "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39, "exit": 60, "getrusage": 98, "sysinfo": 99,
            "sigaltstack": 131, "gettid": 186, "futex": 202, "sched_getaffinity": 204, "restart_syscall": 219,
            "clock_gettime": 228, "clock_nanosleep": 230, "exit_group": 231, "set_robust_list": 273, "getcpu": 309,
            "getrandom": 318, "membarrier": 324, "rseq": 334,
        },
        room_calls={
            "open": 2, "stat": 4, "lstat": 6, "ioctl": 16, "pread64": 17, "pwrite64": 18, "writev": 20, "access": 21,
            "dup": 32, "sendfile": 40, "uname": 63, "fcntl": 72, "fsync": 74, "ftruncate": 77, "getcwd": 79,
            "rename": 82, "mkdir": 83, "rmdir": 84, "unlink": 87, "readlink": 89, "getuid": 102, "getgid": 104,
            "geteuid": 107, "getegid": 108, "sched_setaffinity": 203, "getdents64": 217, "fadvise64": 221,
            "openat": 257, "mkdirat": 258, "newfstatat": 262, "unlinkat": 263, "renameat": 264, "readlinkat": 267,
            "faccessat": 269, "copy_file_range": 326, "statx": 332, "openat2": 437, "faccessat2": 439,
        },
        clone=56,
    ),
    "aarch64": Machine(
        architecture=0xC00000B7,
        seccomp=277,
        calls={
            "close": 57, "lseek": 62, "read": 63, "write": 64, "ppoll": 73, "fstat": 80, "exit": 93, "exit_group": 94,
            "futex": 98, "set_robust_list": 99, "nanosleep": 101, "clock_gettime": 113, "clock_nanosleep": 115,
            "sched_getaffinity": 123, "sched_yield": 124, "restart_syscall": 128, "sigaltstack": 132,
            "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "getrusage": 165, "getcpu": 168,
            "getpid": 172, "gettid": 178, "sysinfo": 179, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222,
            "mprotect": 226, "madvise": 233, "getrandom": 278, "membarrier": 283, "rseq": 293,
        },
        room_calls={
            "getcwd": 17, "dup": 23, "fcntl": 25, "ioctl": 29, "mkdirat": 34, "unlinkat": 35, "renameat": 38,
            "ftruncate": 46, "faccessat": 48, "openat": 56, "getdents64": 61, "writev": 66, "pread64": 67,
            "pwrite64": 68, "sendfile": 71, "readlinkat": 78, "newfstatat": 79, "fsync": 82, "sched_setaffinity": 122,
            "uname": 160, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "fadvise64": 223,
            "copy_file_range": 285, "statx": 291, "openat2": 437, "faccessat2": 439,
        },
        clone=220,
    ),
}  # fmt: skip
