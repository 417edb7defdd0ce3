"""Counts the instructions of a process, which is the same on a busy machine as on an idle one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from .process import run


class Callgrind:
    """The counter of a program that was started by `command`."""

    def __init__(self, directory: Path) -> None:
        """Where the counts are written."""
        self._output = directory / "callgrind.out"
        self._dumps = 0

    def command(self) -> list[str]:
        """What the program is started with."""
        return ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self._output}", "--instr-atstart=no", "--"]

    def count(self, pid: int, work: Callable[[], None]) -> int:
        """How many instructions the process executes in user mode while `work` is done."""
        if self._dumps == 0:
            run(["callgrind_control", "--instr=on", str(pid)])
        # What was done before is not counted: each dump begins at the one before it.
        self._dump(pid)
        work()
        self._dump(pid)
        total = re.search(
            r"^(?:totals|summary): (\d+)", Path(f"{self._output}.{self._dumps}").read_text(), re.MULTILINE
        )
        assert total, "callgrind tells the sum at the end of what it writes"
        return int(total[1])

    def _dump(self, pid: int) -> None:
        self._dumps += 1
        run(["callgrind_control", f"--dump=number {self._dumps}", str(pid)])
