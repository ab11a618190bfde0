"""Programs that try to reach what is outside: the host's files, network, terminal and kernel."""

_CONNECT = """
import socket
def f():
    try:
        it = socket.socket(KIND)
        it.settimeout(0.3)
        return f"a socket: {it}"
    except OSError:
        return ""
"""
_OPEN = """
def f():
    got = []
    for path in PATHS:
        for flags in FLAGS:
            try:
                os.close(os.open(path, flags))
                got.append(path)
            except OSError:
                pass
    return got
"""
_LIST = """
def f():
    got = []
    for path in PATHS:
        try:
            got += os.listdir(path)
        except OSError:
            pass
    return got
"""
_KINDS = {
    "TCP": "socket.AF_INET, socket.SOCK_STREAM",
    "UDP": "socket.AF_INET, socket.SOCK_DGRAM",
    "IPv6": "socket.AF_INET6, socket.SOCK_STREAM",
    "local": "socket.AF_UNIX, socket.SOCK_STREAM",
    "netlink": "16, socket.SOCK_RAW",
    "packet": "17, socket.SOCK_RAW",
    "ping": "socket.AF_INET, socket.SOCK_DGRAM, 1",
    "kernel cryptography": "38, 5",
    "virtual machine": "40, socket.SOCK_STREAM",  # no namespace holds these: it reaches the host
}
_CREATE = "(0o102, 0o2, 0o1)"

REACH = {
    **{f"a socket: {name}": _CONNECT.replace("KIND", kind) for name, kind in _KINDS.items()},
    "names on the network": """
import socket
def f():
    try:
        return socket.getaddrinfo("example.com", 80)
    except OSError:
        return ""
""",
    "accounts": _OPEN.replace("PATHS", "('/etc/passwd', '/etc/shadow', '/etc/hosts')").replace(
        "FLAGS", "(0,)"
    ),
    "folders of the host": _LIST.replace(
        "PATHS",
        "('/home', '/root', '/etc', '/tmp', '.', '/var', '/mnt', '/opt', '/run', '/sys', '/work')",
    ),
    "processes as files": _LIST.replace("PATHS", "('/proc', '/proc/self', '/proc/self/fd')"),
    "the way up": _LIST.replace(
        "PATHS", "('/../home', '/tmp/../../etc', '/usr/../../root', '/tmp/../proc')"
    ),
    "devices": _OPEN.replace(
        "PATHS",
        "('/dev/mem', '/dev/kmsg', '/dev/tty', '/dev/ptmx', '/dev/fuse', '/dev/kvm', '/dev/sda',"
        " '/dev/vda', '/dev/nvidia0', '/dev/net/tun', '/dev/vsock', '/dev/shm', '/dev/mqueue')",
    ).replace("FLAGS", "(0, 2)"),
    "new files": _OPEN.replace(
        "PATHS",
        "('/x', '/tmp/x', '/dev/x', '/dev/shm/x', '/usr/x', '/usr/bin/x', '/usr/lib/x', '/bin/x')",
    ).replace("FLAGS", _CREATE),
    "the Python changed": _OPEN.replace("PATHS", "(os.__file__, os.sys.executable)").replace(
        "FLAGS", "(1, 2, 0o1001)"
    ),
    "kernel switches": _OPEN.replace(
        "PATHS", "('/proc/sysrq-trigger', '/proc/sys/kernel/core_pattern', '/sys/power/state')"
    ).replace("FLAGS", "(0, 1)"),
    "open files that were passed on": """
import stat
def f():
    got = []
    for number in range(3, 1024):
        try:
            kind = os.fstat(number).st_mode
            if number > 4 or not stat.S_ISFIFO(kind):  # the two pipes of the conversation
                got.append((number, oct(kind)))
        except OSError:
            pass
    return got
""",
    "the environment": "def f(): return [n for n in os.environ if n not in ('LC_CTYPE', 'PWD')]",
    "the environment in memory": """
def f():
    text = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
    got, place = [], 0
    while text and text[place]:
        got.append(text[place])
        place += 1
    return [t for t in got if t[:9] != b"LC_CTYPE=" and t[:4] != b"PWD="]
""",
    "the host's name": "def f(): return os.uname().nodename.replace('sandbox', '')",
    "another user": """
def f():
    got = []
    for act in (os.setuid, os.setgid, os.seteuid):
        try:
            act(0)
            got.append(act.__name__)
        except OSError:
            pass
    return got + [i for i in (os.getuid(), os.geteuid(), os.getgid()) if i == 0]
""",
    "rights of the kernel": """
import struct
def f():
    head, data = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    number = 125 if platform.machine() == "x86_64" else 90
    if libc.syscall(number, head, data) == 0:
        return any(data.raw)
""",
    "a device of its own": "def f():\n os.mknod('/tmp/x', 0o20666, 0x103)\n return 'done'",
    "a terminal of its own": "def f(): return os.openpty()",
    "a new root": "def f():\n os.chroot('/tmp')\n return 'done'",
    "a namespace of its own": """
def f():
    flags = (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000, 0x80)
    return [hex(flag) for flag in flags if libc.unshare(flag) == 0]
""",
    "another time": "import time\ndef f():\n time.clock_settime(0, 0)\n return 1",
    "a higher rank": "def f():\n os.nice(-5)\n return 1",
    "all processors": "def f():\n os.sched_setaffinity(0, range(8))\n return 1",
    "the tests beside it": """
import gc, sys
def f():
    wanted = "assert " + "candidate"
    got = [v for v in gc.get_objects() if isinstance(v, dict) and wanted in str(v.get("tests"))]
    frame = sys._getframe()
    while frame:
        texts = [v for n, v in frame.f_locals.items() if isinstance(v, str) and n != "wanted"]
        got += [text for text in texts if wanted in text]
        frame = frame.f_back
    return [str(v)[:50] for v in got]
""",
}
