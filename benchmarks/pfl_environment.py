"""Makes the environment of its own in which ``pfl_reference.py`` times pfl-research.

Nothing is timed here. pfl is no dependency of FedMAC, and its own hold back packages that FedMAC uses too
(attrs below 24), so it stays out of FedMAC's environment and gets ``benchmarks/.venv-pfl`` (ignored by git).
What both use has the version of ``constraints.txt``, so that the engines meet on the same torch and numpy.
Run it by hand with ``.venv/bin/python benchmarks/pfl_environment.py``: it prints the path of the
environment's interpreter.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
ENVIRONMENT = BENCHMARKS / ".venv-pfl"
CONSTRAINTS = BENCHMARKS.parent / "constraints.txt"
REQUIREMENTS = {"pfl": "0.6.0", "torch": "2.13.0"}


def make_pfl_environment() -> Path:
    """Make ``benchmarks/.venv-pfl`` with pfl 0.6.0 and torch 2.13.0 where it is not there yet.

    Takes about a minute the first time and a fraction of a second after that. pip is used as it is
    configured here: it prefers the CPU build of torch where it is offered one, and the benchmark keeps to the
    CPU with any build.

    Returns
    -------
    pathlib.Path
        The environment's Python interpreter.

    Raises
    ------
    RuntimeError
        This Python is one that pfl 0.6.0 does not support, or pip could not install the packages.
    """
    interpreter = ENVIRONMENT / "bin" / "python"
    if _installed_versions(interpreter) == REQUIREMENTS:
        return interpreter
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        version = sys.version.split()[0]
        raise RuntimeError(f"Python {version} cannot run pfl 0.6.0; accepted: 3.10, 3.11 or 3.12")
    # Cleared, because what is there is half made, or belongs to an interpreter that is gone.
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    _install(interpreter)
    return interpreter


def _installed_versions(interpreter: Path) -> dict[str, str] | None:
    """Ask the environment for its versions, without local parts such as ``+cpu``; None if one is missing."""
    question = "; ".join(
        ["from importlib.metadata import version"]
        + [f"print({name!r}, version({name!r}).split('+')[0])" for name in REQUIREMENTS]
    )
    try:
        answer = subprocess.run([interpreter, "-c", question], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return dict(line.split() for line in answer.stdout.splitlines())


def _install(interpreter: Path) -> None:
    requirements = [f"{name}=={version}" for name, version in REQUIREMENTS.items()]
    pip = [str(interpreter), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "install", "--constraint", str(CONSTRAINTS), *requirements]
    # pip's own words go to stderr, so that stdout keeps to the caller's lines.
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise RuntimeError(f"pip could not install {' and '.join(requirements)} in {ENVIRONMENT}: see above")


if __name__ == "__main__":
    print(make_pfl_environment())
