"""Ctrl-C, and who gets it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def end_by_interrupt() -> None:
    """Let every signal that asks for an end raise KeyboardInterrupt, so that there is one way out."""
    for number in ENDINGS:
        signal.signal(number, signal.default_int_handler)


def end_only_once() -> None:
    """Ignore further signals: what is being stopped needs its moment."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)


def our_terminal() -> int | None:
    """Open the terminal if its Ctrl-C reaches the process group that we share with our caller; else None."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None
    if os.tcgetpgrp(terminal) == os.getpgrp() != os.getpid():
        return terminal
    os.close(terminal)
    return None


@contextmanager
def foreground() -> Iterator[None]:
    """Be the only one whom the terminal's Ctrl-C reaches, and hand the terminal back at the end.

    A `make` that gets SIGINT dies of it, whatever its command returns. With a process group of our own only we get the
    signal, end with 0, and so does make. Without a terminal, or in its background, nothing is changed.
    """
    terminal = our_terminal()
    if terminal is None:
        yield
        return
    former = os.getpgrp()
    # Whoever takes a terminal from the background is stopped by SIGTTOU. Ctrl-Z would stop us alone, and make, and with
    # it the shell, would wait for ever.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    os.setpgid(0, 0)
    os.tcsetpgrp(terminal, os.getpid())
    try:
        yield
    finally:
        os.tcsetpgrp(terminal, former)
        os.close(terminal)
