"""Programs that do not end by themselves: the clock outside ends them, and nothing is left."""

ENDLESS = {
    "loop": "while True: pass",
    "sleep": "import time\ntime.sleep(1000)",
    "wait": "import signal\nwhile True: signal.pause()",
    "signals ignored": """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, lambda *a: None)
    except (OSError, ValueError):
        pass
while True: pass
""",
    "signals blocked": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
    "while True: pass",
    "stopped": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "files closed": "import os, time\nos.closerange(0, 64)\ntime.sleep(1000)",
    "forks without end": "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
    "threads without end": "import _thread\nwhile True:\n"
    " try: _thread.start_new_thread(print, ())\n except RuntimeError: pass",
    "memory without end": "a = []\nwhile True:\n try: a.append(bytearray(1 << 20))\n"
    " except MemoryError: pass",
    "errors caught": "while True:\n try:\n  while True: pass\n except BaseException: pass",
    "at exit": "import atexit\natexit.register(lambda: list(iter(int, 1)))\nwhile True: pass",
    "a finaliser": "class A:\n def __del__(self):\n  while True: pass\nA()",
    "another program": "import os\nos.execv('/usr/bin/sleep', ['sleep', '1000'])",
    "a big power": "10 ** 10 ** 10",
    "a regular expression": "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
    "output": "import os\nwhile True: os.write(4, b'x' * 10000)",
    "errors": "import os\nwhile True: os.write(2, b'x' * 10000)",
}
