"""Programs that try to hold more memory than the limit. `f` returns how many bytes it had.

What is counted is memory that is there at one time, as far as the program can know it.
"""

LIMIT = 256 << 20  # bytes

_SEGMENTS = """
def f():
    libc.shmat.restype = ctypes.c_void_p
    held = 0
    while held < 2 * LIMIT:
        number = libc.shmget(0, 32 << 20, 0o1666)
        if number == -1:
            break
        address = libc.shmat(number, None, 0)
        if address in (None, 2**64 - 1):
            break
        ctypes.memset(address, 1, 32 << 20)
        libc.shmdt(ctypes.c_void_p(address))
        held += 32 << 20
    return held
"""
_FILES = """
def f():
    held, files = 0, []
    try:
        while held < 2 * LIMIT:
            files.append(OPEN)
            for _ in range(15):
                held += os.write(files[-1], bytes(1 << 20))
    except OSError:
        pass
    return held
"""
_MANY = """
def f():
    made = 0
    try:
        while made < 500_000:
            MAKE
            made += 1
    except OSError:
        pass
    return made * 1024  # each is an inode and an entry of a folder, about 1 KB
"""
_PIPES = """
import fcntl, socket
def f():
    held, kept = 0, []
    try:
        while held < 2 * LIMIT:
            a, b = MAKE
            kept.append((a, b))
            os.set_blocking(b, False)
            try:
                fcntl.fcntl(b, 1031, 1 << 20)
            except OSError:
                pass
            try:
                while True: held += os.write(b, bytes(4096))
            except BlockingIOError:
                pass
    except OSError:
        pass
    return held
"""

_PROGRAMS = {
    "one big object": "def f(): return len(bytearray(2 * LIMIT))",
    "many objects": """
def f():
    kept = []
    try:
        while len(kept) < 2 * LIMIT >> 20: kept.append(bytearray(b"x" * (1 << 20)))
    except MemoryError:
        pass
    return len(kept) << 20
""",
    "shared mappings": """
import mmap
def f():
    kept = []
    try:
        while len(kept) < 2 * LIMIT >> 20: kept.append(mmap.mmap(-1, 1 << 20))
    except (OSError, MemoryError):
        pass
    return len(kept) << 20
""",
    "segments of shared memory": _SEGMENTS,
    "segments kept by number": _SEGMENTS.replace("None, 0)", "None, 0o10000)"),
    "memory as a file": _FILES.replace("OPEN", "os.memfd_create('x')"),
    "memory as a secret file": _FILES.replace(
        "OPEN", "call('memfd_secret', 0)[0] if call('memfd_secret', 0)[0] > 0 else 1 / 0"
    ),
    "a file in /tmp": _FILES.replace("OPEN", "os.open('/tmp/%d' % held, 0o102, 0o600)"),
    "a file in /dev/shm": _FILES.replace("OPEN", "os.open('/dev/shm/%d' % held, 0o102, 0o600)"),
    "a file in /dev": _FILES.replace("OPEN", "os.open('/dev/%d' % held, 0o102, 0o600)"),
    "a file in /": _FILES.replace("OPEN", "os.open('/%d' % held, 0o102, 0o600)"),
    "a file without a name": _FILES.replace("OPEN", "os.open('/tmp', os.O_TMPFILE | 2, 0o600)"),
    "shared memory of Python": """
from multiprocessing import shared_memory
def f():
    kept = []
    try:
        while len(kept) < 2 * LIMIT >> 20:
            kept.append(shared_memory.SharedMemory(create=True, size=1 << 20))
            kept[-1].buf[:] = bytes(1 << 20)
    except OSError:
        pass
    return len(kept) << 20
""",
    "empty files": _MANY.replace("MAKE", "os.close(os.open('/tmp/%d' % made, 0o102))"),
    "empty folders": _MANY.replace("MAKE", "os.mkdir('/tmp/%d' % made)"),
    "links": _MANY.replace("MAKE", "os.symlink('x' * 1000, '/tmp/%d' % made)"),
    "full pipes": _PIPES.replace("MAKE", "os.pipe()"),
    "full sockets": _PIPES.replace("MAKE", "[s.detach() for s in socket.socketpair()]"),
    "sockets in sockets": """
import socket
def f():
    sent, kept = 0, []
    try:
        while sent < 20_000:
            a, b = socket.socketpair()
            a.send(bytes(100_000))
            if not kept: kept = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            socket.send_fds(kept[0], [b"x"], [a.fileno(), b.fileno()])
            sent += 1
            if sent % 5 == 0:
                socket.send_fds(kept[0], [b"x"], [kept[1].fileno()])
                kept = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError:
        pass
    return sent * 100_000
""",
    "messages in queues": """
def f():
    held = 0
    for number in range(10_000):
        queue = libc.msgget(0, 0o1666)
        if queue == -1:
            break
        held += 16384
    return held
""",
    "pages given to a pipe": """
import mmap
def f():
    class Part(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    held = 0
    for _ in range(24):
        a, b = os.pipe()
        for _ in range(14):
            page = mmap.mmap(-1, 2 << 20)
            page.madvise(14)
            page.write(bytes(2 << 20))
            view = ctypes.c_char.from_buffer(page)
            given = Part(ctypes.addressof(view), 4096)
            if call("vmsplice", b, ctypes.byref(given), 1, 2)[0] != 4096:
                return held
            held += 2 << 20
            del view
            page.close()
    return held
""",
    "locks on a file": """
import fcntl, struct
def f():
    file = os.open(os.__file__, os.O_RDONLY)
    made = 0
    try:
        for place in range(2_000):
            fcntl.fcntl(file, 6, struct.pack("hhqqi", 0, 0, 2 * place, 1, 0))
            made += 1
    except OSError:
        pass
    return made << 30  # nothing bounds them
""",
    "timers": """
def f():
    made = 0
    for _ in range(1_000):
        if call("timer_create", 1, 0, bytes(8))[0] == -1:
            break
        made += 1
    return made << 30  # nothing but a limit on signals bounds them
""",
    "keys": """
def f():
    made = 0
    for number in range(1_000):
        if call("add_key", b"user", b"%d" % number, bytes(10_000), 10_000, -2)[0] == -1:
            break
        made += 1
    return made << 30
""",
    "limits raised": """
import resource
def f():
    try:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    except (ValueError, OSError):
        pass
    return len(bytearray(2 * LIMIT))
""",
    "limits lost in another program": """
def f():
    code = f"n = len(bytearray({2 * LIMIT}))"
    code += "; import os; os.write(4, b'{\\\\"value\\\\": %d}\\\\n' % n)"
    os.execv("/usr/bin/python3", ["python3", "-c", code])
""",
}

MEMORY = {f"memory: {name}": f"LIMIT = {LIMIT}\n{text}" for name, text in _PROGRAMS.items()}
