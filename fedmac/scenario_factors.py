"""What a scenario whose devices send the factors of a gradient may not say."""

from __future__ import annotations

from fedmac.scenario_errors import missing, refusal
from fedmac.scenario_sections import CodecSection, LinkSection, TrainingSection

FACTOR_CODEC_NAMES = ("factor", "deterministic-factor")
"""Codecs of factors, by name, without loading them."""


def check_factors(codec: CodecSection, training: TrainingSection, link: LinkSection) -> None:
    """Refuse what makes an update more than one plain gradient on a batch, and packets whose length must be known.

    Raises
    ------
    ValueError
        Naming the key, its value and what is accepted.
    """
    sender = f'codec.name = "{codec.name}" sends the factors of one gradient on a mini-batch'
    if training.full_batch:
        raise refusal("training.full_batch", True, sender, "false, with training.local_batches = 1")
    if training.local_batches is None:
        raise missing("training.local_batches", f"but {sender}", "1")
    for key, accepted, value in (
        ("local_batches", 1, training.local_batches),
        ("l2", 0.0, training.l2),
    ):
        if value != accepted:
            raise refusal(f"training.{key}", value, sender, str(accepted))
    if training.clip_norm is not None:
        raise refusal("training.clip_norm", training.clip_norm, sender, "clip_norm left out, or another codec")
    if codec.error_feedback is not None:
        reason = f"what {codec.name} leaves of an update has no factors"
        raise refusal("codec.error_feedback", codec.error_feedback, reason, "error_feedback left out, or another codec")
    unknown = f"how long packets of {codec.name} are is not known before a batch is drawn"
    if link.packets != "as-coded":
        raise refusal("link.packets", link.packets, unknown, '"as-coded"')
    if link.select is not None:
        raise refusal("link.select", link.select, unknown, "select left out")
