"""Signal handling of `make run`: one way to exit, and Ctrl-C that reaches only this process and not `make`."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def raise_interrupt_on_signals() -> None:
    """Make every exit signal raise KeyboardInterrupt, so that one code path handles them all."""
    for number in EXIT_SIGNALS:
        signal.signal(number, signal.default_int_handler)


def ignore_exit_signals() -> None:
    """Ignore further exit signals while the server shuts down."""
    for number in EXIT_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def open_terminal() -> int | None:
    """Open the terminal if this process is in its foreground process group and does not lead it; else return None.

    That is the case when a shell has started `make` in the foreground, and `make` this process.
    """
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
    """Put this process into a foreground process group of its own, and restore the former one at the end.

    Ctrl-C sends SIGINT to the foreground process group. A `make` in it would exit with an error, even if its command
    exits with 0. Outside of it, only this process receives the signal, and both exit with 0. Without a terminal, or in
    the background, nothing changes.
    """
    terminal = open_terminal()
    if terminal is None:
        yield
        return
    former = os.getpgrp()
    # After setpgid() this process is in the background, where tcsetpgrp() raises SIGTTOU. Ctrl-Z (SIGTSTP) would stop
    # only this process: `make`, and the shell that waits for it, would hang.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    os.setpgid(0, 0)
    os.tcsetpgrp(terminal, os.getpid())
    try:
        yield
    finally:
        os.tcsetpgrp(terminal, former)
        os.close(terminal)
