"""The system calls that a program in the sandbox may make: a seccomp filter for Linux.

The list says what is allowed. All other calls fail with "Function not implemented", those of
kernels to come included. So a program can compute, read files, sleep, and handle its own signals.
It can start no process and no thread, trace nobody, make no memory that outlives its mapping,
open no socket to anywhere, and change no namespace, mount or key.

A filter is a program for a small machine in the kernel (classic BPF, `seccomp(2)`). It is written
here by hand, as it takes one pattern: load a word, compare it, return.
"""

import struct

from mpdf_langgraph.errors import SandboxError

_ALLOW = 0x7FFF0000
_NOT_IMPLEMENTED = 0x00050000 | 38  # ENOSYS: the C library then tries an older call
_KILL_PROCESS = 0x80000000
_LOAD, _EQUALS, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # bytes in `struct seccomp_data`

#: What `platform.machine()` says, and the kernel's number for it (`linux/audit.h`).
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

#: The name of each allowed call, and its number on x86_64 and on aarch64.
_CALLS = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69,
preadv2 327 286, lseek 8 62, open 2 -, openat 257 56, close 3 57, close_range 436 436, stat 4 -,
lstat 6 -, fstat 5 80, newfstatat 262 79, statx 332 291, statfs 137 43, fstatfs 138 44,
access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78,
getdents 78 -, getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, umask 95 166,
dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73, select 23 -,
pselect6 270 72, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -,
epoll_pwait 281 22, epoll_pwait2 441 441, eventfd2 290 19, fadvise64 221 223,
mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, madvise 28 233, mincore 27 232,
msync 26 227, brk 12 214, futex 202 98, futex_waitv 449 449, set_robust_list 273 99,
get_robust_list 274 100, rseq 334 293, membarrier 324 283, set_tid_address 218 96,
arch_prctl 158 -, restart_syscall 219 128, rt_sigaction 13 134, rt_sigprocmask 14 135,
rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigsuspend 130 133, rt_sigtimedwait 128 137,
sigaltstack 131 132, pause 34 -, alarm 37 -, getitimer 36 102, setitimer 38 103, kill 62 129,
tgkill 234 131, wait4 61 260, waitid 247 95, execve 59 221, exit 60 93, exit_group 231 94,
nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114,
gettimeofday 96 169, time 201 -, times 100 153, getrusage 98 165, getrlimit 97 163,
sysinfo 99 179, uname 63 160, getrandom 318 278, getcpu 309 168, sched_yield 24 124,
sched_getaffinity 204 123, getpid 39 172, gettid 186 178, getppid 110 173, getpgrp 111 -,
getpgid 121 155, getsid 124 156, getuid 102 174, geteuid 107 175, getgid 104 176,
getegid 108 177, getresuid 118 148, getresgid 120 150, getgroups 115 158, getpriority 140 141,
getsockname 51 204, getpeername 52 205, shutdown 48 210,
ioctl 16 29, fcntl 72 25, prlimit64 302 261, socketpair 53 199, sendto 44 206, recvfrom 45 207
"""

#: Of some calls, the argument that is looked at (from 0) and the values that it may have.
_ARGUMENTS = {
    # TCGETS, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: what Python asks of a file that it opens.
    "ioctl": (1, (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: no locks, no bigger pipes.
    "fcntl": (1, (0, 1, 2, 3, 4, 1030)),
    "prlimit64": (0, (0,)),  # the limits of this process alone
    "socketpair": (0, (1,)),  # AF_UNIX: the event loop of asyncio wakes itself by one
    "sendto": (3, (0,)),  # no flags
    "recvfrom": (3, (0,)),
}


def allowed_calls(machine: str) -> dict[str, int]:
    """Return the names of the allowed calls, and their numbers on a kind of machine.

    Args:
        machine: What `platform.machine()` says.

    Raises:
        SandboxError: There is no list for such a machine.

    Example:
        >>> allowed_calls("aarch64")["read"]
        63
    """
    if machine not in _ARCHITECTURES:
        raise SandboxError(
            f"The sandbox knows the system calls of {' and '.join(_ARCHITECTURES)}, but not those "
            f"of {machine}. Name another sandbox command: Sandbox(command=[...])"
        )
    column = 1 + list(_ARCHITECTURES).index(machine)
    rows = [row.split() for row in _CALLS.split(",")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def build_filter(machine: str) -> bytes:
    """Return the filter as bubblewrap reads it: an array of the kernel's `struct sock_filter`.

    Args:
        machine: What `platform.machine()` says.

    Raises:
        SandboxError: There is no list for such a machine.
    """
    calls = allowed_calls(machine)
    # Numbers of another architecture, e.g. of 32-bit programs, mean other calls.
    code = [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_EQUALS, 1, 0, _ARCHITECTURES[machine])]
    code += [(_RETURN, 0, 0, _KILL_PROCESS), (_LOAD, 0, 0, _NUMBER_AT)]
    for name, number in calls.items():
        rule = [(_RETURN, 0, 0, _ALLOW)]
        if name in _ARGUMENTS:
            position, values = _ARGUMENTS[name]
            # The kernel takes these arguments as 32-bit numbers: the lower half decides.
            rule = [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * position)]
            rule += [(_EQUALS, len(values) - i, 0, value) for i, value in enumerate(values)]
            rule += [(_RETURN, 0, 0, _NOT_IMPLEMENTED), (_RETURN, 0, 0, _ALLOW)]
        code += [(_EQUALS, 0, len(rule), number), *rule]
    code.append((_RETURN, 0, 0, _NOT_IMPLEMENTED))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
