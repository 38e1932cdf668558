"""What a log says of a run that begins, or goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedmac.logs import log_event
from fedmac.session import Job


def log_begin(out: Path, jobs: Sequence[Job]) -> None:
    """Log that a run begins or, if rounds of it are in its record, that it resumes, with how many and after which.

    Rounds that nobody has logged, as the command was killed and a deployment's server went on, are among them.
    """
    found = sum(1 for job in jobs for record in job.folder.read_rounds() if record["seed"] == job.seed)
    fields = {"folder": str(out)}
    if not found:
        log_event("run_started", f"the run in {out} begins", fields)
        return
    done = sum(job.done for job in jobs)
    after = [f"{job.variant.name} (seed {job.seed}) after round {job.after}" for job in jobs if job.after]
    goes_on = "; ".join([f"{done} of {len(jobs)} are done"] * (len(jobs) > 1) + after)
    message = f"the run in {out} resumes: {found} rounds are in its record" + (f"; {goes_on}" if goes_on else "")
    log_event("run_resumed", message, fields | {"rounds_found": found})
