"""A line of JSON for each request, without any text of it; and, where it is asked for, a share of the records kept.

Lines lie in `logs/requests/`, kept records in `requests/<model>/` of Heliostat's home, beside the corrections of the
demos in `labels/`. Both are bounded in size, and only their owner may read them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Thread
from time import monotonic
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from heliostat.component import Row, Settings
from heliostat.errors import DataError, ServeError
from heliostat.home import home
from heliostat.plugin import TaskHead
from heliostat.run.cleaning import Personal
from heliostat.serve.schema import Served
from heliostat.serve.tensors import Tensor, taken

log = logging.getLogger(__name__)

LINES_BYTES = 16 << 20
"""A file of lines that is larger is put aside as `.1`, in place of the one before."""
_MOST_FILES = 32
"""Files of lines a model: those of the oldest replicas go."""
_PART_ROWS = 1000
_PART_S = 60.0
_MOST_WAITING = 1000

QUIET = frozenset({"healthz", "readyz", "v2_health", "v2_ready", "metrics"})
"""Routes of probes, which leave a line only when they are refused."""


class RequestLog(Settings):
    """What a deployment writes down about its requests."""

    lines: bool = True
    """Write a line of JSON for each request: id, route, status, milliseconds, model, version, the key's name."""
    keep: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """The share of predictions that is kept with their records, for checks of drift and for labels; 0 keeps none."""
    keep_mb: Annotated[int, Field(ge=1)] = 256
    """Megabytes that may be kept a model; the oldest go."""
    redact: tuple[Personal, ...] = ("email", "phone", "iban", "card", "ssn")
    """Personal data that becomes a placeholder before a record is kept. Of private models no text is kept at all."""


class RequestLines:
    """The lines of one replica."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._file: int | None = None
        self._size = 0
        self._path = home() / "logs" / "requests" / f"{served.name}-{os.getpid()}.jsonl"

    def write(self, id: str, route: str, status: int, seconds: float, kind: str, key: str) -> None:
        """Write down one request; nothing that its client made up but its id, which is a plain word."""
        if route in QUIET and status < 400:
            return
        about = {"at": _now(), "id": id, "route": route, "status": status, "ms": round(seconds * 1000, 3)}
        line = {**about, **self._served._asdict(), **({"error": kind} if kind else {}), **({"key": key} if key else {})}
        self._append((json.dumps(line) + "\n").encode())

    def _append(self, line: bytes) -> None:
        try:
            if self._file is None:
                self._file = self._opened()
            self._size += os.write(self._file, line)
            if self._size >= LINES_BYTES:
                self.close()
                self._path.replace(f"{self._path}.1")
        except OSError as error:  # a full disk keeps nobody from an answer
            log.error("a request could not be written down: %s", error.strerror)

    def _opened(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        own = re.compile(rf"{re.escape(self._served.name)}-\d+\.jsonl(\.1)?")  # no other model's that begins so
        files = [path for path in self._path.parent.iterdir() if own.fullmatch(path.name)]
        _drop_oldest(sorted(files, key=_age), _MOST_FILES)
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def close(self) -> None:
        """Close the file; a line that comes later opens another."""
        if self._file is not None:
            os.close(self._file)
            self._file, self._size = None, 0


class _Answered(NamedTuple):
    id: str
    at: str
    version: int
    rows: Sequence[Row]
    predictions: Sequence[Row]


class KeptRequests:
    """Records with their predictions as Parquet, written by a thread of its own; `start` and `close` it.

    A part is written each minute, or every thousand records: a process that is killed loses the part under way.
    Raises ServeError when a library that finds personal data is not installed.
    """

    def __init__(self, served: Served, head: TaskHead, settings: RequestLog) -> None:
        from heliostat.data.redaction import require

        self._served, self._head, self._settings = served, head, settings
        self._fields = _kept_fields(head)
        self._waiting: Queue[_Answered | None] = Queue(_MOST_WAITING)
        self._thread: Thread | None = None
        self._parts = 0
        self.folder = home() / "requests" / served.name
        """Where the parts lie."""
        try:
            require(settings.redact)
        except DataError:
            way_out = "pip install heliostat[clean], or set requests.redact to [email, phone]"
            raise ServeError(f"requests.redact: check digits are checked with python-stdnum; {way_out}.") from None

    def add(self, id: str, rows: Sequence[Row], predictions: Sequence[Row], version: int) -> bool | None:
        """Keep a request if it is in the share that is kept (None: it is not); False when the writer is behind."""
        if zlib.crc32(id.encode()) / 2**32 >= self._settings.keep:
            return None
        try:
            self._waiting.put_nowait(_Answered(id, _now(), version, rows, predictions))
        except Full:
            return False
        return True

    def start(self) -> None:
        """Start the writing thread."""
        self._thread = Thread(target=self._run, name="heliostat-requests", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and end the thread."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(timeout=30)

    def _run(self) -> None:
        part: list[_Answered] = []
        goes_on, due = True, monotonic() + _PART_S
        while goes_on:
            with suppress(Empty):
                each = self._waiting.get(timeout=max(0.0, due - monotonic()))
                goes_on = each is not None
                part += [each] if each is not None else []
            if not goes_on or monotonic() >= due or sum(len(each.rows) for each in part) >= _PART_ROWS:
                self._write(part)
                part, due = [], monotonic() + _PART_S

    def _write(self, part: Sequence[_Answered]) -> None:
        from heliostat.predict.sinks import open_sink

        if not part:
            return
        self._parts += 1
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}-{self._parts:05}.parquet"
        kinds = {"request_id": "string", "at": "string", "version": "int64", **_columns(self._fields)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open_sink(self.folder / name, kinds) as sink:
                sink.write([answer for each in part for answer in self._answers(each)])
            _drop_beyond(self.folder, self._settings.keep_mb << 20)
        except Exception as error:  # the next part may succeed; what is said of an error may hold words of a record
            log.error("%s requests could not be kept: %s", len(part), type(error).__name__)

    def _answers(self, each: _Answered) -> list[tuple[Row, Row, str]]:
        about = {"request_id": each.id, "at": each.at, "version": each.version}
        return [
            ({**about, **self._kept(row)}, self._said(prediction), "")
            for row, prediction in zip(each.rows, each.predictions, strict=True)
        ]

    def _kept(self, row: Row) -> Row:
        return {field.name: _cell(field, self._redacted(row.get(field.name))) for field in self._fields}

    def _said(self, prediction: Row) -> Row:
        """A prediction as it is kept: of a private model that writes texts its numbers alone."""
        hides = self._head.private and self._head.streams
        return {k: self._redacted(v) for k, v in prediction.items() if not (hides and isinstance(v, (str, list)))}

    def _redacted(self, value: Any) -> Any:
        from heliostat.data.redaction import redact

        if isinstance(value, str):
            for kind in self._settings.redact:
                value, _ = redact(value, kind)
            return value
        if isinstance(value, (list, tuple)):
            return [self._redacted(each) for each in value]
        if isinstance(value, dict):
            return {name: self._redacted(each) for name, each in value.items()}
        return value


def _kept_fields(head: TaskHead) -> tuple[Tensor, ...]:
    """The fields of records that are kept: of a private head none that holds words."""
    return tuple(each for each in taken(head.takes) if not (head.private and each.kind in {"text", "json"}))


def _columns(fields: Sequence[Tensor]) -> dict[str, str]:
    kinds = {"number": "double", "integer": "int64", "truth": "bool"}
    return {each.name: kinds.get(each.kind, "string") for each in fields}


def _cell(field: Tensor, value: Any) -> Any:
    if value is None or field.kind in {"number", "integer", "truth"}:
        return value
    return str(value) if field.kind == "text" else json.dumps(value, ensure_ascii=False, default=str)


def _drop_beyond(folder: Path, most: int) -> None:
    """Remove the oldest parts until the others are within `most` bytes."""
    parts = sorted(folder.glob("*.parquet"))
    size = sum(part.stat().st_size for part in parts)
    for part in parts[:-1]:
        if size <= most:
            return
        size -= part.stat().st_size
        part.unlink(missing_ok=True)


def _drop_oldest(files: Sequence[Path], most: int) -> None:
    for file in files[: max(0, len(files) - most + 1)]:
        file.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another replica dropped it
        return 0.0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def kept_requests(model: str) -> list[Row]:
    """The records of a model that were kept, each with what was answered: the form that `evaluate.drift` reads.

    The fields of the record stand under their names, those of the prediction, too, as `label`: its share of each class
    is then held against that of the train split. None when nothing was kept.
    """
    import pandas as pd

    from heliostat.predict.sinks import ADDED, PROBLEM

    rows: list[Row] = []
    for part in sorted((home() / "requests" / model).glob("*.parquet")):
        table = pd.read_parquet(part).drop(columns=PROBLEM)
        cells = table.astype(object).where(table.notna(), None).to_numpy().tolist()
        names = [str(name) for name in table]
        plain = [name if (bare := name.removeprefix(ADDED)) in names else bare for name in names]
        rows += [dict(zip(plain, row, strict=True)) for row in cells]
    return rows
