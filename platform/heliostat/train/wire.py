"""The network interface that workers on several machines reach each other by.

Gloo looks for it by the name of the machine, which on Debian stands for 127.0.1.1: workers elsewhere would look for
that one on themselves.
"""

from __future__ import annotations

import os


def take_wire(address: str) -> None:
    """Let gloo use the interface with the address that others know this machine by, unless somebody has chosen one.

    Called before a process group is made.
    """
    name = wire_of(address)
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def wire_of(address: str) -> str | None:
    """The name of the interface that holds an address; None where none does. Each of 127.0.0.0/8 is the loopback's."""
    import psutil

    wanted = "127.0.0.1" if address.startswith("127.") else address
    return next(
        (
            name
            for name, held in psutil.net_if_addrs().items()
            if any(each.address.partition("%")[0] == wanted for each in held)
        ),
        None,
    )
