"""The filter of system calls: what it allows, on both kinds of machine, and in the kernel."""

import platform
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpdf_langgraph.answers.sandbox import Sandbox
from mpdf_langgraph.answers.system_calls import allowed_calls, build_filter
from mpdf_langgraph.errors import SandboxError
from tests.plugin.answers.test_sandbox import answer

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, NOT_IMPLEMENTED, KILL = 0x7FFF0000, 0x00050026, 0x80000000
#: What a program must never get, whatever list somebody edits.
FORBIDDEN = """
ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_open pidfd_getfd fork vfork
clone clone3 execveat setns unshare prctl seccomp personality shmget shmat shmctl msgget semget
mq_open memfd_create memfd_secret userfaultfd add_key request_key keyctl bpf perf_event_open
io_uring_setup io_setup kexec_load kexec_file_load init_module finit_module mount umount2
pivot_root chroot open_tree move_mount fsopen name_to_handle_at open_by_handle_at socket connect
bind sendmsg recvmsg vmsplice splice tee timer_create flock setrlimit mkdirat mknodat symlinkat
"""


def decide(code: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What the kernel's machine makes of a filter: the instructions that `bpf(4)` describes."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    program = list(struct.iter_unpack("=HBBI", code))
    place = value = 0
    while True:
        kind, if_equal, if_not, operand = program[place]
        place += 1
        if kind == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif kind == 0x15:
            place += if_equal if value == operand else if_not
        else:
            assert kind == 0x06
            return operand


@pytest.mark.parametrize("machine", ARCHITECTURES)
@given(
    number=st.integers(0, 600) | st.integers(-(2**31), 2**31 - 1),
    argument=st.integers(0, 2**64 - 1),
)
def test_what_is_not_listed_is_not_implemented(machine: str, number: int, argument: int) -> None:
    code = build_filter(machine)
    verdict = decide(code, ARCHITECTURES[machine], number, *[argument] * 6)
    if number not in allowed_calls(machine).values():
        assert verdict == NOT_IMPLEMENTED
    assert verdict in (ALLOW, NOT_IMPLEMENTED)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_what_is_listed_is_allowed(machine: str) -> None:
    code = build_filter(machine)
    refused = {
        name
        for name, number in allowed_calls(machine).items()
        if decide(code, ARCHITECTURES[machine], number, *[2**64 - 1] * 6) != ALLOW
    }
    assert refused == {"ioctl", "fcntl", "prlimit64", "socketpair", "sendto", "recvfrom"}
    assert len(code) % 8 == 0
    assert len(code) // 8 < 4096  # BPF_MAXINSNS


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize(
    ("name", "arguments", "allowed"),
    [
        ("fcntl", (0, 4), True),
        ("fcntl", (0, 1030), True),
        ("fcntl", (0, 1031), False),
        ("fcntl", (4, 6), False),
        ("fcntl", (0, 2**32 + 4), True),  # the kernel takes the lower half, so this is 4
        ("ioctl", (0, 0x5401), True),
        ("ioctl", (0, 0x5412), False),
        ("prlimit64", (0, 7), True),
        ("prlimit64", (1, 0), False),
        ("socketpair", (1, 1), True),
        ("socketpair", (2, 1), False),
        ("sendto", (3, 0, 1, 0), True),
        ("sendto", (3, 0, 1, 1), False),
        ("recvfrom", (3, 0, 1, 0x40), False),
    ],
)
def test_arguments(machine: str, name: str, arguments: tuple[int, ...], allowed: bool) -> None:
    number = allowed_calls(machine)[name]
    verdict = decide(build_filter(machine), ARCHITECTURES[machine], number, *arguments)
    assert verdict == (ALLOW if allowed else NOT_IMPLEMENTED)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_calls_of_another_architecture_end_the_program(machine: str) -> None:
    code, (other,) = build_filter(machine), {*ARCHITECTURES} - {machine}
    for architecture in (0x40000003, ARCHITECTURES[other], 0):  # the first is i386
        for number in range(400):
            assert decide(code, architecture, number) == KILL


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_nothing_dangerous_is_listed(machine: str) -> None:
    assert not {*FORBIDDEN.split()} & {*allowed_calls(machine)}
    assert len({*allowed_calls(machine).values()}) == len(allowed_calls(machine))


def test_other_machines_have_no_list() -> None:
    for machine in ("riscv64", "i686", "arm64", ""):
        with pytest.raises(SandboxError, match=r"knows the system calls of x86_64.*command="):
            build_filter(machine)


@pytest.mark.parametrize(
    ("machine", "header", "options"),
    [
        ("x86_64", "x86_64-linux-gnu/asm/unistd_64.h", ()),
        # What aarch64 takes over from the kernel's generic list.
        (
            "aarch64",
            "asm-generic/unistd.h",
            ("-D__BITS_PER_LONG=64", "-D__ARCH_WANT_NEW_STAT", "-D__ARCH_WANT_SET_GET_RLIMIT"),
        ),
    ],
)
def test_the_numbers_are_those_of_the_kernel(
    machine: str, header: str, options: tuple[str, ...]
) -> None:
    path = Path("/usr/include", header)
    if not path.exists() or not shutil.which("cpp"):
        pytest.skip(f"needs cpp and {path}: apt install gcc linux-libc-dev")
    text = subprocess.check_output(["cpp", "-dM", *options, path], text=True)
    named = dict(re.findall(r"#define (__NR\w*) (\w+)", text))

    def number(name: str) -> int:
        while not name.isdigit():
            name = named[name]
        return int(name)

    assert allowed_calls(machine) == {
        name: number(f"__NR_{name}") for name in allowed_calls(machine)
    }


def test_the_kernel_refuses_all_other_numbers() -> None:
    """Whatever it is, and whatever becomes of it: no call that is not listed gets through."""
    try:
        sandbox = Sandbox(seconds=60)
        with sandbox.start():
            pass
    except SandboxError as error:
        pytest.skip(f"needs bubblewrap: {error}")
    program = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def f(allowed):
    reached = []
    for base in (0, 0x40000000):  # and the calls of x32
        for number in range(base, base + 1024):
            if number in allowed:
                continue
            result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 6)
            if result != -1 or ctypes.get_errno() != 38:
                reached.append((number, result, ctypes.get_errno()))
    return reached
"""
    allowed = list(allowed_calls(platform.machine()).values())
    # uretprobe and uprobe of x86_64: the kernel asks no filter, and ends a program that makes them.
    assert answer(sandbox, program, [*allowed, 335, 336]) == []
