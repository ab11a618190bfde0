"""Dangerous system calls: the filter must refuse them, whatever else would.

What the filter refuses fails with "Function not implemented", and a kernel that lacks the call
says the same. Where another error comes back, the call reached the kernel.
"""

#: What all programs have: system calls by name.
PRELUDE = '''
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NUMBERS = """
ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, kcmp 312 272, fork 57 -,
vfork 58 -, clone 56 220, execveat 322 281, setns 308 268, unshare 272 97, prctl 157 167,
seccomp 317 277, personality 135 92, setsid 112 157, shmget 29 194, shmat 30 196, shmctl 31 195,
msgget 68 186, semget 64 190, mq_open 240 180, memfd_create 319 279, userfaultfd 323 282,
add_key 248 217, request_key 249 218, keyctl 250 219, bpf 321 280, perf_event_open 298 241,
io_setup 206 0, kexec_load 246 104, init_module 175 105, finit_module 313 273, mount 165 40,
umount2 166 39, pivot_root 155 41, chroot 161 51, name_to_handle_at 303 264,
open_by_handle_at 304 265, fanotify_init 300 262, inotify_init1 294 26, socket 41 198,
sendmsg 46 211, recvmsg 47 212, splice 275 76, tee 276 77, vmsplice 278 75, mlockall 151 230,
mbind 237 235, remap_file_pages 216 234, setresuid 117 147, capset 126 91, setpriority 141 140,
sched_setscheduler 144 119, sched_setaffinity 203 122, setrlimit 160 164, sethostname 170 161,
settimeofday 164 170, clock_settime 227 112, reboot 169 142, syslog 103 116, quotactl 179 60,
acct 163 89, swapon 167 224, iopl 172 -, modify_ldt 154 -, timer_create 222 107,
timerfd_create 283 85, rt_sigqueueinfo 129 138, mkdirat 258 34, mknodat 259 33, symlinkat 266 36,
flock 73 32, prlimit64 302 261, fcntl 72 25, ioctl 16 29, sendto 44 206, mmap 9 222,
clone3 435 435, pidfd_open 434 434, pidfd_getfd 438 438, pidfd_send_signal 424 424,
process_madvise 440 440, memfd_secret 447 447, io_uring_setup 425 425, open_tree 428 428,
move_mount 429 429, fsopen 430 430, fsmount 432 432, mount_setattr 442 442, openat2 437 437,
landlock_create_ruleset 444 444, listmount 458 458
"""
NUMBERS = {row.split()[0]: row.split()[1:] for row in NUMBERS.split(",")}

def call(name, *args):
    """The result and the error number of a system call. None on a machine without it."""
    number = NUMBERS[name][platform.machine() == "aarch64"]
    if number == "-":
        return None, 38
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(int(number)), *args)
    return result, ctypes.get_errno() if result == -1 else 0

def reached(name, *args):
    """Empty where the filter refuses a call, else what the kernel said to it."""
    result, error = call(name, *args)
    return "" if error == 38 else f"{name} gave {result}, error {error}"
'''

_ARGUMENTS = {
    "ptrace": "16, 1, 0, 0",  # PTRACE_ATTACH to the first process
    "process_vm_readv": "1, 0, 0, 0, 0, 0",
    "process_vm_writev": "1, 0, 0, 0, 0, 0",
    "kcmp": "1, os.getpid(), 0, 0, 0",
    "clone": "0x10000000 | 17, 0, 0, 0, 0",  # CLONE_NEWUSER
    "clone3": "0, 0",
    "execveat": "-1, 0, 0, 0, 0",
    "setns": "0, 0",
    "prctl": "1, 0, 0, 0, 0",  # PR_SET_PDEATHSIG
    "seccomp": "1, 8, 0",  # a listener of one's own
    "personality": "0x0040000",  # ADDR_NO_RANDOMIZE
    "shmget": "0, 1 << 20, 0o1666",
    "shmat": "0, 0, 0",
    "memfd_create": "b'x', 0",
    "memfd_secret": "0",
    "add_key": "b'user', b'x', b'x', 1, -2",
    "request_key": "b'user', b'x', 0, -2",
    "keyctl": "0, -3, 1",
    "bpf": "0, 0, 0",
    "perf_event_open": "0, 0, -1, -1, 0",
    "io_uring_setup": "8, bytes(200)",
    "mount": "b'none', b'/tmp', b'tmpfs', 0, 0",
    "umount2": "b'/usr', 2",
    "pivot_root": "b'/tmp', b'/tmp'",
    "chroot": "b'/tmp'",
    "open_tree": "-100, b'/', 1",
    "fsopen": "b'tmpfs', 0",
    "name_to_handle_at": "-100, b'/usr', bytes(200), bytes(8), 0",
    "open_by_handle_at": "-100, bytes(200), 0",
    "userfaultfd": "1",
    "pidfd_open": "1, 0",
    "pidfd_getfd": "0, 0, 0",
    "pidfd_send_signal": "0, 9, 0, 0",
    "sendmsg": "0, bytes(64), 0",
    "vmsplice": "0, 0, 0, 0",
    "splice": "0, 0, 0, 0, 1, 0",
    "setpriority": "0, 0, -5",
    "sched_setaffinity": "1, 8, bytes(8)",
    "syslog": "3, bytes(100), 100",  # the kernel's log
    "timer_create": "0, 0, bytes(8)",
    "mknodat": "-100, b'/tmp/x', 0o20666, 0x103",
    "openat2": "-100, b'/tmp', bytes(24), 24",
}
_PLAIN = """
fork vfork unshare setsid msgget semget mq_open io_setup kexec_load init_module finit_module
move_mount fsmount mount_setattr fanotify_init inotify_init1 recvmsg tee mlockall mbind
remap_file_pages setresuid capset sched_setscheduler setrlimit sethostname settimeofday
clock_settime reboot quotactl acct swapon iopl modify_ldt timerfd_create rt_sigqueueinfo
landlock_create_ruleset listmount process_madvise
"""
#: Allowed calls with arguments that are not.
_MORE = """
fcntl os.open(os.__file__, 0), 6, 0  # a lock on a file
fcntl os.open(os.__file__, 0), 1024, 0  # a lease
fcntl os.pipe()[0], 1031, 1 << 20  # a bigger pipe
ioctl 0, 0x5412, b'x'  # typing into a terminal
ioctl 0, 0x540E, 1  # a controlling terminal
ioctl 0, 0x40049409, 0  # copying a file's blocks
prlimit64 1, 7, 0, bytes(16)  # limits of the first process
"""
_ALL = [
    *_ARGUMENTS.items(),
    *((name, "0, 0, 0, 0, 0") for name in _PLAIN.split()),
    *(line.partition("#")[0].strip().split(" ", 1) for line in _MORE.strip().split("\n")),
]

CALLS = {
    "dangerous calls": "def f():\n all = ["
    + ",\n  ".join(f"reached('{name}', {arguments})" for name, arguments in _ALL)
    + "]\n return [text for text in all if text]",
    "data out of band": """
import socket
def f():
    a, b = socket.socketpair()
    return reached("sendto", a.fileno(), b"x", 1, 1, 0, 0)
""",
    "network sockets in pairs": """
import socket
def f():
    try:
        return bool(socket.socketpair(30, socket.SOCK_STREAM))
    except OSError as error:
        return "" if error.errno == 38 else str(error)
""",
    "numbers of x32": """
def f():
    if platform.machine() != "x86_64":
        return ""
    for number in (39, 57, 101, 165, 514, 520, 521, 539, 540):
        if libc.syscall(ctypes.c_long(0x40000000 | number), *[ctypes.c_long(0)] * 6) != -1:
            return f"x32 call {number}"
        if ctypes.get_errno() != 38:
            return f"x32 call {number} reached the kernel"
""",
    "calls of 32 bits": """
import mmap
def f():
    if platform.machine() != "x86_64":
        return ""
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(bytes.fromhex("b814000000 cd80 c3".replace(" ", "")))  # getpid by int 0x80
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return f"int 0x80 gave {ctypes.CFUNCTYPE(ctypes.c_int)(address)()}"
""",
}
