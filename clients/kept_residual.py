"""What error feedback keeps, on the device's own disk as well: a run that is resumed goes on with it."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from channel.order import ANEW, KEPT_AFTER, KEPT_NUMBER, KEPT_RUN, KEPT_SAFE, ORDER_KEY
from channel.records import records_in
from clients.residual import RESIDUAL_KEY, SENT_KEY, forget

MOST_RUNS = 8
"""Of how many runs a device keeps anything: the latest."""

MOST_FILES = 32
"""Of a run, where checkpoints are rare: the latest."""

_NAME = re.compile(r"[0-9a-f]{32}")
_BETWEEN = "/"
_LOG, _EVENT = logging.getLogger("fedmac"), {"event": "warning"}


class KeptResiduals:
    """The residuals of one device in one run, a safetensors file for each order.

    Parameters
    ----------
    folder : Path
        Where those of all runs are.
    run : str
        The run's name, 32 hexadecimal digits.
    device : int
        Number of the device.

    Raises
    ------
    ValueError
        If `run` is no such name: it becomes a path.
    """

    def __init__(self, folder: Path, run: str, device: int) -> None:
        if not _NAME.fullmatch(run):
            raise ValueError(f"{KEPT_RUN} = {run!r}: accepted: 32 hexadecimal digits")
        self.runs = folder
        self.path = folder / run / f"device-{device}"

    def numbers(self) -> list[int]:
        """Numbers of the orders whose residuals are there, in order."""
        return sorted(int(path.stem) for path in self.path.glob("*.safetensors") if path.stem.isdigit())

    def clear(self) -> None:
        """Drop all of this run."""
        shutil.rmtree(self.path, ignore_errors=True)

    def load(self, after: int, state: RecordDict) -> None:
        """Put what was kept last, up to the order `after`, into `state`; drop what was kept since."""
        forget(state)
        found = self.numbers()
        for number in (n for n in found if n > after):
            self._file(number).unlink(missing_ok=True)
        for number in (n for n in reversed(found) if n <= after):
            try:
                arrays = load_file(self._file(number))
            except (OSError, SafetensorError) as error:
                _LOG.warning("%s: %s; error feedback starts at zero", self._file(number), error, extra=_EVENT)
                return
            for name in (RESIDUAL_KEY, SENT_KEY):
                entries = {
                    key.split(_BETWEEN)[1]: Array(a) for key, a in arrays.items() if key.startswith(name + _BETWEEN)
                }
                if entries:
                    state[name] = ArrayRecord(entries)
            return

    def keep(self, number: int, safe: int, state: RecordDict) -> None:
        """Write what `state` holds after the order `number`; what no checkpoint since `safe` can ask for goes."""
        held = records_in(state, ArrayRecord)
        records = {name: held[name] for name in (RESIDUAL_KEY, SENT_KEY) if name in held}
        if not records:
            return
        arrays = {f"{name}{_BETWEEN}{key}": a.numpy() for name, record in records.items() for key, a in record.items()}
        try:
            self._make_room()
            descriptor, part = tempfile.mkstemp(dir=self.path, suffix=".part")  # for its owner alone
            os.close(descriptor)
            try:
                save_file(arrays, part)
                Path(part).replace(self._file(number))
            finally:
                Path(part).unlink(missing_ok=True)
            found = self.numbers()
            needed = max((n for n in found if n <= safe), default=0)
            for old in {*(n for n in found if n < needed), *found[:-MOST_FILES]}:
                self._file(old).unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:  # training goes on: it is needed after a crash only
            _LOG.warning(
                "%s: not kept (%s); a resumed run would start error feedback at zero", self.path, error, extra=_EVENT
            )

    def _make_room(self) -> None:
        """Make the folder; of runs beyond the latest nothing is kept."""
        if self.path.is_dir():
            return
        self.path.mkdir(mode=0o700, parents=True)
        runs = [run for run in self.runs.iterdir() if _NAME.fullmatch(run.name)]
        for old in sorted(runs, key=lambda run: run.stat().st_mtime)[:-MOST_RUNS]:
            shutil.rmtree(old, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.path / f"{number}.safetensors"


def keeping_residuals(folder: Callable[[], Path | None], device: Callable[[Context], int]) -> Mod:
    """A Flower mod, to stand before :func:`clients.transmit`, by which error feedback outlives SuperNode and run.

    Parameters
    ----------
    folder : callable
        Where to keep it; nothing is kept where that is None.
    device : callable
        The number of the device of a context.
    """

    def keep(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        said = records_in(message.content, ConfigRecord).get(ORDER_KEY, ConfigRecord())
        where = folder() if KEPT_RUN in said else None
        if where is None:
            if KEPT_AFTER in said:
                forget(context.state)
            return call_next(message, context)
        kept = KeptResiduals(where, str(said[KEPT_RUN]), device(context))
        number, safe = int(str(said[KEPT_NUMBER])), int(str(said[KEPT_SAFE]))
        if said.get(ANEW):
            kept.clear()
        elif KEPT_AFTER in said:
            kept.load(int(str(said[KEPT_AFTER])), context.state)
        elif RESIDUAL_KEY not in records_in(context.state, ArrayRecord):  # a device that was started again
            kept.load(number - 1, context.state)
        reply = call_next(message, context)
        kept.keep(number, safe, context.state)
        return reply

    return keep
