"""Ctrl-C and SIGTERM as a wish to stop: the run saves, ends its processes and says with which code it was ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from heliostat.errors import Stopped

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Wish:
    """Whether a signal came, and which."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def exit_code(self) -> int:
        """What a process ended by this signal exits with; 130 when none came."""
        return EXIT_CODES.get(signal.Signals(self.signal), 130) if self.signal else 130


@contextmanager
def stop_signals(on_stop: Callable[[], None], *, under_launcher: bool = False) -> Iterator[Wish]:
    """Call `on_stop` at the first Ctrl-C or SIGTERM; a second one ends at once with Stopped.

    Under a launcher that answers Ctrl-C with a SIGTERM of its own (torchrun) only SIGTERM counts: one wish, not two.
    """
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def receive(number: int, _: Any) -> None:
        if wish.signal is not None:
            raise Stopped("ended at once; the newest whole checkpoint is kept.", exit_code=wish.exit_code)
        wish.signal = number
        on_stop()

    previous = {number: signal.signal(number, receive) for number in EXIT_CODES}
    if under_launcher:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield wish
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
