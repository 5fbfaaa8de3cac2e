"""Tokens: 32 hexadecimal digits, as in nuScenes, derived from what they name so that a seed gives the same files."""

from __future__ import annotations

import hashlib


def token(*parts: object) -> str:
    """The token of a thing that is named by ``parts``, such as ``token("sample", seed, scene, number)``."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()
