"""What a scenario can name."""

from __future__ import annotations

import inspect
import re
from typing import get_args

Catalogue = dict[str, tuple[str, dict[str, str]]]

CHANNELS = {
    "textbook": "The fading and path loss of the keys fading and path_loss.",
    "umi": "3GPP TR 38.901: street canyon, base station below the roofs (extra 3gpp).",
    "uma": "3GPP TR 38.901: urban macro cell, base station above the roofs (extra 3gpp).",
    "rma": "3GPP TR 38.901: rural macro cell (extra 3gpp).",
    "inh": "3GPP TR 38.901: open office (extra 3gpp).",
    "inf": "3GPP TR 38.901: factory hall of sparse clutter, base station above it (extra 3gpp).",
    "trace": "Gains by round and device out of a CSV or NPZ file: measured, or from another simulator.",
}
DELAY_LINES = {
    "tdl": "3GPP TR 38.901: tapped delay line, profile A to E, without directions (extra 3gpp).",
    "cdl": "3GPP TR 38.901: clustered delay line, profile A to E, with directions at the antennas (extra 3gpp).",
}
PLANS = {
    "constant": "Every round may take the same.",
    "power-law": "More to rounds of larger updates, whose norms are forecast by a power law fitted to past rounds.",
    "pilot": "More to rounds of larger updates, by the norms of another run, in a file.",
}
"""Names that stand for no class of their own."""


def catalogue(kind: str | None = None) -> Catalogue:
    """For each kind the scenario key it belongs to, and its names with a line each.

    The figures of codecs, which take a second to compute, are there if `kind` is theirs or None.
    """
    from channel.codecs import CODECS, FACTOR_CODECS
    from channel.codes import CODES
    from channel.fading import FADINGS
    from channel.links import ACCESSES, LINKS
    from channel.power import COMBININGS, POWER_CONTROLS
    from channel.uplinks import UPLINKS
    from clients.data import PARTITIONS, SOURCES
    from clients.device_profiles import shipped_profiles
    from clients.models import MODELS
    from fedmac.clock.links import LINK_KINDS
    from fedmac.codec_figures import codec_note
    from fedmac.engines import ENGINES
    from fedmac.scenario_sections import UplinkSection
    from fedmac.sinks import SINKS
    from strategies.names import STRATEGIES

    codecs = {**CODECS, **FACTOR_CODECS}
    notes = {name: f" {codec_note(name)}" for name in codecs} if kind in (None, "codecs") else {}
    return {
        "data": ("data.source", dict(SOURCES)),
        "partitions": ("data.partition", dict(PARTITIONS)),
        "models": ("model.name", {n: _line(m) for n, m in MODELS.items()}),
        "strategies": (
            "strategy.name",
            {n: s.summary + (" (needs a digital uplink)" if s.individual else "") for n, s in STRATEGIES.items()},
        ),
        "uplinks": ("uplink.kind", {n: _line(u) for n, u in UPLINKS.items()}),
        "codes": ("uplink.code", {n: _line(CODES[n]) for n in get_args(UplinkSection.model_fields["code"].annotation)}),
        "codecs": (
            "codec.name",
            {n: _line(c) + notes.get(n, "") for n, c in codecs.items()},
        ),
        "links": ("link.name", {n: _line(link) for n, link in LINKS.items()}),
        "access": ("link.access", {n: _line(a) for n, a in ACCESSES.items()}),
        "power-controls": ("power_control.name", {n: _line(p) for n, p in POWER_CONTROLS.items()}),
        "combinings": ("power_control.combining", {n: _line(c) for n, c in COMBININGS.items()}),
        "plans": ("plan.name", dict(PLANS)),
        "channels": ("channel.kind", dict(CHANNELS)),
        "fadings": ("channel.fading", {n: _line(f) for n, f in FADINGS.items()} | DELAY_LINES),
        "engines": ("engine.kind", dict(ENGINES)),
        "device-profiles": ("devices.profiles", {n: p.source for n, p in shipped_profiles().items()}),
        "network-links": ("network.link", {n: kind.source for n, kind in LINK_KINDS.items()}),
        "sinks": ("--sink", dict(SINKS)),
    }


_PLAIN = (
    (r"`", ""),
    (r":math:", ""),
    (r":class:", ""),
    (r"\\operatorname\{(\w+)\}", r"\1"),
    (r"\\hat (\w)", r"\1^"),
    (r"\\ge(?![a-z])", " >= "),
    (r"\\\|", "|"),
    (r"\\le(?![a-z])", " <= "),
    (r"\\sqrt\{([^}]*)\}", r"sqrt(\1)"),
    (r"\\(,|;| )", " "),
    (r"\\(?=[A-Za-z])", ""),
    (r"[{}]", ""),
    (r" +", " "),
)
"""Mathematics of docstrings as a terminal shows it."""


def _line(named: object) -> str:
    """First line of a docstring, without its marks."""
    lines = (inspect.getdoc(named) or "").splitlines()
    line = lines[0] if lines else ""
    for pattern, plain in _PLAIN:
        line = re.sub(pattern, plain, line)
    return line
