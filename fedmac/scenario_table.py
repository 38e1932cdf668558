"""What every table of a scenario is made of: kinds of numbers, refusal of unknown keys, keys that go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from fedmac.scenario_errors import accepted_by, missing, refusal

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Ratio = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """A table of a scenario: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OpenSection(BaseModel):
    """A table whose further keys are parameters of what it names."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    @property
    def parameters(self) -> dict[str, Any]:
        """The further keys."""
        return dict(self.model_extra or {})


def belongs(section: Section | OpenSection, owners: Mapping[str, tuple[str, tuple[str, ...]]]) -> None:
    """Refuse keys whose selector has chosen something else: ``{key: (selector, choices)}``."""
    for key, (selector, choices) in owners.items():
        value, chosen = getattr(section, key), getattr(section, selector)
        if value is not None and chosen not in choices:
            accepted = " or ".join(f'{selector} = "{choice}"' for choice in choices)
            raise refusal(key, value, f'has no meaning with {selector} = "{chosen}"', accepted)


def needs(section: Section | OpenSection, selector: str, keys: Mapping[str, str]) -> None:
    """Refuse a choice whose key is not there: ``{choice: key}``."""
    chosen = getattr(section, selector)
    key = keys.get(chosen)
    if key is not None and getattr(section, key) is None:
        raise missing(key, f'but {selector} = "{chosen}" needs it', accepted_by(type(section), key))


def leaves_out(
    section: Section | OpenSection,
    keys: Iterable[str],
    reason: str,
    accepted: str = "{key} left out",
    table: str = "",
) -> None:
    """Refuse keys with another value than their default; `table` is put before them, in `accepted` ``{key}`` is one."""
    for key in keys:
        if (value := getattr(section, key)) != type(section).model_fields[key].default:
            raise refusal(f"{table}{key}", value, reason, accepted.format(key=key))
