"""What a run has come to, as far as a repetition under the same seed must come to it too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedmac.record import MEASURED


def outcome(folder: Path) -> tuple[list[dict[str, Any]], bytes, list[str]]:
    """Of a variant with one seed: its rounds without measured seconds, its final model, and the files it left."""
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    rounds = [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]
    return rounds, (folder / "model.safetensors").read_bytes(), sorted(file.name for file in folder.iterdir())
