"""Tokens: 32 hexadecimal digits, as in nuScenes, derived from names, so one seed gives the same files everywhere."""

from __future__ import annotations

import hashlib


def token(*parts: object) -> str:
    """The token of a thing named by ``parts``.

    >>> token("sample", 0, 12, 1) == token("sample", 0, 12, 1)
    True
    """
    # MD5 for its 32 digits; `usedforsecurity=False` lets the call pass on machines in FIPS mode, which forbid MD5.
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()
