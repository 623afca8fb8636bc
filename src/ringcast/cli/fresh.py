"""A fresh secret: what `ringcast secret` writes, with or without a command-line library."""

from __future__ import annotations

import secrets

_BYTES = 32


def fresh_secret() -> str:
    """256 bits, as text that shells take as it is."""
    return secrets.token_urlsafe(_BYTES)
