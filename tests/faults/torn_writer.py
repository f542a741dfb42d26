"""Writes a checkpoint and is killed by the kernel at given byte offsets: `torn_writer.py WHOLE FOLDER NAME:OFFSET...`.

WHOLE is a whole checkpoint; FOLDER gets one folder a kill. Each kill has a process of its own, a fork that writes the
same checkpoint with SIGXFSZ's own answer, death, and a limit on the size of a file that is set when NAME is next. The
kernel lets the file grow to OFFSET bytes and not one further.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType

from heliostat import checkpoint


def main(whole: Path, folder: Path, kills: list[str]) -> None:
    loaded = checkpoint.load(whole)
    snapshot = checkpoint.Snapshot(
        loaded.run,
        loaded.parts,
        loaded.model,
        loaded.model.state_dict(),
        lambda: checkpoint.golden(whole),
        checkpoint.load_state(whole),
    )
    order = _order(folder / "reference", snapshot)
    sizes = {name: (folder / "reference" / name).stat().st_size for name in order}
    print(*(f"{name}:{sizes[name]}" for name in order), flush=True)
    for number, kill in enumerate(kills):
        name, _, offset = kill.rpartition(":")
        child = os.fork()
        if child == 0:
            _write_until(folder / f"kill-{number}" / "step-00000006", snapshot, order, sizes, name, int(offset))
            os._exit(0)  # never: the write is longer than the offset
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status), flush=True)


def _order(folder: Path, snapshot: checkpoint.Snapshot) -> list[str]:
    """Write a checkpoint to its end: the names of its files, in the order in which they were there."""
    order: list[str] = []

    def look(_frame: FrameType, _event: str, _arg: object) -> None:
        for place, _, names in os.walk(folder):
            for name in sorted(names):
                path = os.path.relpath(os.path.join(place, name), folder)  # noqa: PTH118
                if path not in order and not name.startswith("."):
                    order.append(path)

    sys.setprofile(look)
    checkpoint.save(folder, snapshot)
    sys.setprofile(None)
    return order


def _write_until(
    folder: Path, snapshot: checkpoint.Snapshot, order: list[str], sizes: dict[str, int], name: str, offset: int
) -> None:
    """Save; as soon as all files before `name` are whole, let no file grow beyond `offset`."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = order[: order.index(name)]

    def look(_frame: FrameType, _event: str, _arg: object) -> None:
        if all(_size(folder / each) == sizes[each] for each in before):
            sys.setprofile(None)
            resource.setrlimit(resource.RLIMIT_FSIZE, (offset, resource.RLIM_INFINITY))

    sys.setprofile(look)
    checkpoint.save(folder, snapshot)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  # a Path's own would be profiled, too
    except FileNotFoundError:
        return -1


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
