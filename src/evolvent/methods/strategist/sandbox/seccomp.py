"""A seccomp filter through ctypes: after it, a process can compute, use the pipes it has, and nothing else.

The list is of what the interpreter needs to run arithmetic; every other system call kills the process with SIGSYS,
which the parent sees. Memory can never be made executable. Imported by the worker before anything of the skill is read.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys

# name -> number, by machine. mmap and mprotect are let through only without PROT_EXEC.
CALLS = {
    "x86_64": {
        "read": 0, "write": 1, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigprocmask": 14,
        "rt_sigreturn": 15, "madvise": 28, "mremap": 25, "exit": 60, "futex": 202, "exit_group": 231,
        "clock_gettime": 228,
    },
    "aarch64": {
        "read": 63, "write": 64, "mmap": 222, "mprotect": 226, "munmap": 215, "brk": 214, "rt_sigprocmask": 135,
        "rt_sigreturn": 139, "madvise": 233, "mremap": 216, "exit": 93, "futex": 98, "exit_group": 94,
        "clock_gettime": 113,
    },
}  # fmt: skip
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_WITH_PROTECTION = ("mmap", "mprotect")

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, JMP|JSET|K, RET|K
_KILL, _ALLOW = 0x80000000, 0x7FFF0000  # SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ALLOW
_NUMBER, _MACHINE, _THIRD_ARGUMENT = 0, 4, 32  # offsets in struct seccomp_data
_PROT_EXEC = 4
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


def available() -> bool:
    """Whether this machine has a filter here."""
    return sys.platform == "linux" and platform.machine() in CALLS


def program(machine: str) -> bytes:
    """The filter as struct sock_filter records (code, jump if true, jump if false, value)."""
    calls = CALLS[machine]
    plain = [n for name, n in calls.items() if name not in _WITH_PROTECTION]
    lines: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for number in plain:
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for name in _WITH_PROTECTION:
        lines += [
            (_EQUAL, 0, 4, calls[name]),
            (_LOAD, 0, 0, _THIRD_ARGUMENT),
            (_ANY_BIT, 0, 1, _PROT_EXEC),
            (_RETURN, 0, 0, _KILL),
            (_RETURN, 0, 0, _ALLOW),
        ]
    lines.append((_RETURN, 0, 0, _KILL))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def lock() -> None:
    """Install the filter in this process, for good.

    Raises:
        OSError: the kernel refuses.
    """

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    code = program(platform.machine())
    buffer = ctypes.create_string_buffer(code, len(code))
    described = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_PR_SET_SECCOMP, _FILTER, ctypes.addressof(described), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp is refused here")
