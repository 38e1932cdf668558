"""Rebuild the gallery: run the commands of docs/gallery.md and put its pictures into docs/img.

usage: python scenarios/gallery.py [--only STUDY …] [--keep]

Each section of the gallery has its commands in a block of shell, and pictures named after the folder below
runs/gallery that they come from: img/gallery-NAME.svg is the paper figure of runs/gallery/NAME. Screenshots of pages
(img/page-….png) are taken with Chromium where it is installed. --keep goes on with what is in runs/gallery already.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GALLERY, IMAGES, RUNS = ROOT / "docs/gallery.md", ROOT / "docs/img", ROOT / "runs/gallery"
PAGES = {
    "page-report.png": RUNS / "quickstart/report.html",
    "page-comparison.png": RUNS / "quickstart/comparison/comparison.html",
}


def main() -> None:
    """Rebuild all studies, or some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="STUDY", help="pictures' names, e.g. quickstart")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    sections = {
        names[0]: section for section in studies(GALLERY.read_text(encoding="utf-8")) if (names := names_in(section))
    }
    if unknown := set(arguments.only) - set(sections):
        parser.error(f"--only {' '.join(sorted(unknown))}: accepted: {', '.join(sections)}")
    for name in arguments.only or sections:
        if not arguments.keep:
            shutil.rmtree(RUNS / name, ignore_errors=True)
        for command in commands_in(sections[name]):
            print(f"$ {command}", flush=True)
            subprocess.run(command, shell=True, check=True, cwd=ROOT, env=environment())
        shutil.copyfile(RUNS / name / "comparison/figure.svg", IMAGES / f"gallery-{name}.svg")
    for image, page in PAGES.items():
        if page.is_file():
            photograph(page, IMAGES / image)


def studies(text: str) -> list[str]:
    """The sections of the gallery."""
    return text.split("\n## ")[1:]


def commands_in(section: str) -> list[str]:
    """The commands of a section's shell blocks; a line that ends in a backslash goes on."""
    blocks = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def names_in(section: str) -> list[str]:
    """The names of a section's pictures."""
    return re.findall(r"\(img/gallery-([\w-]+)\.svg\)", section)


def environment() -> dict[str, str]:
    """With the `fedmac` of this Python found first."""
    return os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def photograph(page: Path, image: Path) -> None:
    """A picture of the top of a page, in a window of 1280 by 1400 pixels."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print(f"{image.name}: left as it is, Chromium is not installed")
        return
    with tempfile.TemporaryDirectory() as profile:
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000"]
        words += [f"--user-data-dir={profile}", "--window-size=1280,1400", f"--screenshot={image}", page.as_uri()]
        subprocess.run([chromium, *words], check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main()
