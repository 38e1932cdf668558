"""`fedmac run` on a federation, and what it records."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.end_to_end.federation import Federation, environment
from tests.interruptible import interruptible


def start_run(scenario: Path, federation: Federation, out: Path, *more: str) -> subprocess.Popen[str]:
    """`fedmac run` on the federation, as a user calls it."""
    words = ["-m", "fedmac.cli", "run", str(scenario), "--engine", "deployment"]
    words += ["--superlink", str(federation.folder), "--out", str(out), "--no-report", *more]
    return subprocess.Popen(
        interruptible(*words), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(run: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str]:
    """Exit code and output of a run; one that does not end is ended."""
    try:
        said, _ = run.communicate(timeout=seconds)
    finally:
        run.kill()
    return run.returncode, said


def records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "rounds.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
