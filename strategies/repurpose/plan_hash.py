"""What tells one trained model, and one file, from another."""

from __future__ import annotations

import hashlib

from torch import nn


def hash_of_model(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and values of a model's state, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def hash_of_bytes(content: bytes) -> str:
    """SHA-256 as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
