"""The gallery's text is its own recipe: each study has its commands, and the pictures that they make."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def module() -> ModuleType:
    """scenarios/gallery.py, which is a script."""
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "scenarios/gallery.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


gallery = module()
STUDIES = [study for study in gallery.studies(gallery.GALLERY.read_text(encoding="utf-8")) if gallery.names_in(study)]


def test_there_are_six_studies_with_a_picture_each() -> None:
    names = [gallery.names_in(study) for study in STUDIES]
    assert [len(own) for own in names] == [1] * 6
    assert len({own[0] for own in names}) == 6


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: gallery.names_in(study)[0])
def test_a_study_runs_a_scenario_that_is_there_and_compares_what_it_ran(study: str) -> None:
    (name,) = gallery.names_in(study)
    run, compare = map(shlex.split, gallery.commands_in(study))
    assert run[0] == compare[0] == "fedmac"
    assert run[1] in ("run", "sweep")
    assert (ROOT / run[2]).is_file()
    folder = f"runs/gallery/{name}"
    assert run[run.index("--out") + 1] == folder
    assert compare[1:3] == ["compare", folder]
    assert (ROOT / f"docs/img/gallery-{name}.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_a_command_that_goes_on_in_the_next_line_is_one() -> None:
    assert gallery.commands_in("```sh\na b \\\n    c\nd\n```") == ["a b      c", "d"]
