"""A device profile as a scenario has it."""

from __future__ import annotations

from dataclasses import asdict, fields

import tomli_w

from clients.device_profiles import ComputeProfile


def profile_table(profile: ComputeProfile) -> str:
    """TOML of the table ``devices.own.NAME``, which reads back as the same profile; defaults are left out."""
    defaults = {field.name: field.default for field in fields(profile)}
    content = {key: value for key, value in asdict(profile).items() if key != "name" and value != defaults[key]}
    return tomli_w.dumps({"devices": {"own": {profile.name: content}}})
