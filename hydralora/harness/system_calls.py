"""The sandbox's filter of system calls: what namespaces do not confine is refused.

Sockets of a virtual machine's host (`AF_VSOCK`) and the kernel's keyrings belong to no namespace. No program that is
tested here needs a socket, so none is made at all. The filter is a program in the kernel's classic BPF, which
bubblewrap installs; see `man 2 seccomp`.
"""

import errno
import platform
import struct

_CALLS = (
    *("socket", "ptrace", "add_key", "request_key", "keyctl"),
    *("perf_event_open", "bpf", "userfaultfd", "io_uring_setup"),
)
_MACHINES = {
    "x86_64": (0xC000003E, (41, 101, 248, 249, 250, 298, 321, 323, 425)),
    "aarch64": (0xC00000B7, (198, 117, 217, 218, 219, 241, 280, 282, 425)),
}
"""Machine -> its name in the kernel's audit, and its numbers of `_CALLS`."""
_LOAD, _EQUALS, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_KILL, _ALLOW, _REFUSE = 0x8000_0000, 0x7FFF_0000, 0x0005_0000 | errno.EPERM
_FIRST_OF_X32 = 0x4000_0000
"""The same calls have a second set of numbers from here on."""


def call_filter() -> bytes:
    """The filter for this machine.

    Raises:
        ValueError: the machine's system calls are not known here.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise ValueError(f"expected a machine of {', '.join(_MACHINES)}, got {machine}")
    audit, numbers = _MACHINES[machine]
    left = len(numbers)
    program = [
        (_LOAD, 0, 0, 4),  # the machine that the call is for
        (_EQUALS, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the call's number
        (_AT_LEAST, left + 1, 0, _FIRST_OF_X32),
        *((_EQUALS, left - i, 0, number) for i, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in program)
