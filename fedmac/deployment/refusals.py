"""What a deployment cannot be made of or started with."""

from __future__ import annotations


class BadDeployment(ValueError):
    """Bad input to ``fedmac deploy``; the message names the field or file, the value and what is accepted."""
