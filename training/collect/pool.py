"""Worker processes that do not outlive their command."""

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process


def make_pool(processes: int) -> ProcessPoolExecutor:
    """Return a pool of worker processes, which end with this process, however it ends.

    By themselves they would wait for ever for a process that was killed. Ctrl-C, which reaches them
    too, ends them at once and in silence. They are not forked, as the threads of torch do not
    survive that.
    """
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_begin)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
    os._exit(1)  # sys.exit would end this thread alone
