"""Watches over the processes of `torchrun`: each says every second that it is at work, and hears who has ended.

PyTorch would notice a lost process only when it waits for its message, and torchrun on another machine never. The words
go through the store that torchrun keeps for its processes, so nothing of ours listens. Process 0 hears all others, and
they hear process 0. A process says nothing either while native code keeps Python's lock, as functions of scipy.linalg
do; so on the same machine it is lost only if it is not there any more. Knows nothing of the work.
"""

import _thread
import json
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

BEAT = 1.0  # seconds between two words of a process
SILENCE = 20.0  # seconds without a word, after which a process that is not there any more counts as lost
ELSEWHERE = 60.0  # the same for a process on another machine, where nobody can look whether it is there
STUCK = 600.0  # the same for one that is there
FIRST = 600.0  # seconds for the first word: processes import PyTorch, perhaps from a slow disk
GRACE = 3.0  # seconds after another's failure, in which this process may report the same mistake first
SOON = 3.5  # seconds without a word, while this process is being ended, too
LOST = signal.SIGUSR2  # the handler of this signal is called in the main thread when a process is lost

DONE, FAILED, INTERRUPTED = "done", "failed", "interrupted"


def open_store() -> "Store":
    """A connection to torchrun's store. Each thread that waits for something needs one of its own."""
    from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

    is_kept_here = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and os.environ["RANK"] == "0"
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(*address, is_master=is_kept_here, timeout=timedelta(seconds=FIRST), multi_tenant=True)
    return PrefixStore(f"neurexp/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def is_there(process: int) -> bool:
    """Whether a process of this machine is still there, also if it does nothing. One that was killed is not."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except PermissionError:
        return True
    except OSError:
        return False
    return state not in "ZX"  # dead, and its maker has not looked yet


class Watch:
    """The words of this process, and what it hears of others. `lost` says which process was lost, once one is."""

    def __init__(self, store: "Store", rank: int, count: int):
        self.lost: str | None = None
        self._here = socket.gethostname(), os.getpid()
        self._store, self._rank, self._count = store, rank, count
        self._others = range(1, count) if rank == 0 else range(1)
        self._heard: dict[int, tuple[str, float]] = {}  # process → its last word, and when that was new
        self._began = self._answered = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(BEAT if number else 0):
            number += 1
            self._exchange(number)
            found = self._loss()
            if found is not None:
                self.lost = found
                _thread.interrupt_main(LOST)
                return

    def _exchange(self, number: int, word: str = "", text: str = "") -> None:
        with suppress(RuntimeError):  # the store has ended
            self._store.set(f"watch/{self._rank}", json.dumps([number, *self._here, word, text]))
            for other in self._others:
                if self._store.check([f"watch/{other}"]):
                    said = self._store.get(f"watch/{other}").decode()
                    if said != self._heard.get(other, ("", 0.0))[0]:
                        self._heard[other] = said, time.monotonic()
            self._answered = time.monotonic()

    def _loss(self, soon: bool = False) -> str | None:
        """The first of the others that has ended, and how; None if none has, as far as is known."""
        now = time.monotonic()
        silence, elsewhere, grace = (SOON, SOON, 0.0) if soon else (SILENCE, ELSEWHERE, GRACE)
        if now - self._answered > silence:
            return "torchrun: its own process that the others were connected through has ended"
        for other in self._others:
            who = f"torchrun: process {other} of {self._count}"
            if other not in self._heard:
                if now - self._began > FIRST:
                    return f"{who} has not started within {FIRST:.0f} seconds"
                continue
            said, since = self._heard[other]
            _, host, process, word, text = json.loads(said)
            if word == FAILED and now - since > grace:
                return f"{who}, on {host}: {text}"
            if word == INTERRUPTED and now - since > silence:  # this process gets a signal of its own
                return f"{who}, on {host}, was interrupted"
            least = silence if host == self._here[0] else elsewhere
            if not word and now - since > least:
                if host == self._here[0] and is_there(process) and now - since <= STUCK:
                    continue
                return f"{who}, on {host}, has ended without a word: it was killed, or its machine failed"
        return None

    def why(self) -> str | None:
        """Which process was lost, to one that is being ended: torchrun ends all processes of a machine with one.

        Waits some seconds to hear it; less if all others have said how they ended.
        """
        end = time.monotonic() + SOON + 2 * BEAT
        while self.lost is None and time.monotonic() < end and self._thread.is_alive():
            self.lost = self._loss(soon=True)
            words = [json.loads(self._heard[other][0])[3] for other in self._others if other in self._heard]
            if len(words) == len(self._others) and all(word in (DONE, INTERRUPTED) for word in words):
                break
            time.sleep(BEAT / 10)
        return self.lost

    def leave(self, word: str, text: str = "") -> None:
        """Says how this process ends, and ends the watch."""
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._exchange(-1, word, text)
