"""Programs that try to start processes, to outlive the sandbox, or to reach other processes."""

PROCESSES = {
    "fork": "def f(): return os.fork() >= 0",
    "forkpty": "def f(): return os.forkpty()[0] >= 0",
    "posix_spawn": "def f(): return os.posix_spawn('/usr/bin/true', ['true'], {})",
    "subprocess": "import subprocess\ndef f(): return subprocess.run('id').args",
    "system": "def f(): return os.system('sleep 100 &') == 0",
    "popen": "def f(): return os.popen('id').read()",
    "multiprocessing": """
import multiprocessing
def g(): pass
def f():
    process = multiprocessing.get_context("fork").Process(target=g)
    process.start()
    return process.pid
""",
    "spawned worker": """
from concurrent.futures import ProcessPoolExecutor
def f():
    with ProcessPoolExecutor(1) as pool: return pool.submit(abs, -1).result()
""",
    "thread": """
import _thread, time
def f():
    done = []
    _thread.start_new_thread(done.append, (1,))
    time.sleep(0.2)
    return done
""",
    "thread pool": """
from concurrent.futures import ThreadPoolExecutor
def f():
    with ThreadPoolExecutor(1) as pool: return pool.submit(abs, -1).result()
""",
    "fork in a signal handler": """
import signal
def f():
    got = []
    signal.signal(signal.SIGUSR1, lambda *a: got.append(os.fork()))
    os.kill(os.getpid(), signal.SIGUSR1)
    return got
""",
    "fork of the C library": "def f(): return libc.fork() != -1",
    "daemon of the C library": "def f(): return libc.daemon(0, 0) != -1",
    "a child of the parent's": "def f(): return call('clone', 0x8011, 0, 0, 0, 0)[0] != -1",
    "a limit on processes raised": """
import resource
def f():
    for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_AS, resource.RLIMIT_CPU):
        try:
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            return kind
        except (ValueError, OSError):
            pass
""",
    "another program that forks": """
def f():
    os.execv("/usr/bin/sh", ["sh", "-c", '(sleep 100)& echo "{\\\\"value\\\\": 1}" >&4'])
""",
    "another Python that forks": """
def f():
    code = "import os; os.fork(); os.write(4, b'{\\\\"value\\\\": 1}\\\\n')"
    os.execv("/usr/bin/python3", ["python3", "-c", code])
""",
    "a program of another user": """
def f():
    for path in ("/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount", "/usr/bin/newgrp"):
        if os.path.exists(path) and os.stat(path).st_mode & 0o4000:
            os.execv("/usr/bin/sh", ["sh", "-c", f"{path} --version >&4"])
""",
    "the first process taken over": """
import struct
def f():
    # Attach, then make its interrupted system call another: no signal at its parent's death,
    # then a fork. What it starts runs outside of all limits.
    if platform.machine() != "x86_64":
        return ""
    def trace(request, address, data):
        return libc.ptrace(ctypes.c_long(request), 1, ctypes.c_void_p(address), data)
    if trace(16, 0, None) != 0:
        return ""
    os.waitpid(1, 0x40000000)
    registers = (ctypes.c_ulong * 27)()
    trace(12, 0, registers)
    def make(number, *args):
        changed = (ctypes.c_ulong * 27)(*registers)
        changed[10], changed[15], changed[16] = number, 2**64 - 1, registers[16] - 2
        for place, value in zip((14, 13, 12, 7), args): changed[place] = value
        trace(13, 0, changed)
        trace(9, 0, None)
        os.waitpid(1, 0x40000000)
        trace(12, 0, changed)
        return changed[10]
    make(157, 1, 0, 0, 0)
    child = make(57)
    trace(13, 0, registers)
    trace(17, 0, None)
    return f"the first process started {child}"
""",
    "the first process's memory": """
def f():
    for path in ("/proc/1/mem", "/proc/self/task/1/mem", "/proc/self/../1/mem"):
        try:
            return os.open(path, os.O_RDWR)
        except OSError:
            pass
""",
    "the first process's files": """
def f():
    try:
        return [name for name in os.listdir("/proc/1/fd")] + os.listdir("/proc/1/root")
    except OSError:
        return ""
""",
    "the first process killed": """
import signal, time
def f():
    for number in range(1, 65):
        try:
            os.kill(1, number)
        except OSError:
            pass
    time.sleep(0.1)
    try:
        os.kill(1, 0)
    except OSError:
        return "it is gone"
""",
    "all processes killed": """
import signal
def f():
    try:
        os.kill(-1, signal.SIGKILL)
        return "there is somebody"
    except OSError:
        return ""
""",
    "the processes in sight": """
def f():
    seen = []
    for number in range(2, 100000):
        if number != os.getpid():
            try:
                os.kill(number, 0)
                seen.append(number)
            except ProcessLookupError:
                pass
            except OSError:
                seen.append(number)
    return seen
""",
    "a group of its own": "def f(): return os.setsid()",
    "a wait for the others": "def f(): return os.waitpid(-1, 0)",
}
