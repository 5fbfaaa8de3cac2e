"""Addresses (URIs) as they may be printed, stored and logged: without the secrets written into them."""

from __future__ import annotations

import re
from urllib.parse import unquote

_SECRET_OPTION = re.compile(r"^[^=]*(pass|pwd|secret|token|key|user|sig)|@|(pwd|password)=", re.IGNORECASE)
"""An option of an address (``name=value``) with a secret."""

_IN_TEXT = re.compile(r"""(\S+://\S*?)(['"`,;:.)]*)(?=\s|$)""")


def without_credentials(address: str) -> str:
    """The address without user name, password and options with secrets; other text than a URI stays unchanged.

    >>> without_credentials("https://me:secret@tracking.example:5000/mlflow")
    'https://tracking.example:5000/mlflow'
    >>> without_credentials("postgresql://database/runs?sslmode=require&password=secret")
    'postgresql://database/runs?sslmode=require'
    """
    # Split by hand: `urllib.parse` fails on a port which is a password, and its text of the error holds the password.
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    place, _, query = rest.partition("?")
    authority, slash, path = place.partition("/")
    # The part behind "]" first: an IPv6 address has colons of its own.
    port = authority.rpartition("]")[2].partition(":")[2]
    if "@" in authority:
        place = authority.rpartition("@")[2] + slash + path
    elif ":" in authority and "@" in path:  # a secret with a slash in it, as AWS makes them
        place = path.rpartition("@")[2]
    # A port of letters is half a password: the name before it may be one too, so the whole place is left out.
    elif port and not port.isdecimal():
        place = "..."
    options = [option for option in query.split("&") if option and not _SECRET_OPTION.search(unquote(option))]
    return f"{scheme}://{place}{'?' if options else ''}{'&'.join(options)}"


def inside(address: str, folder: str) -> str | None:
    """The path of an address relative to a folder's, ``"."`` for the folder itself; None where it lies elsewhere.

    >>> inside("s3://bucket/storage/my%20data?scheme=http", "s3://bucket/storage?scheme=http")
    'my data'
    >>> inside("/data/storage-2/file", "/data/storage") is None
    True
    """
    is_uri = "://" in folder
    if is_uri != ("://" in address):
        return None
    if is_uri:
        address, folder = address.partition("?")[0], folder.partition("?")[0]
    address, folder = address.rstrip("/"), folder.rstrip("/")
    if address == folder:
        return "."
    # With the slash: "/data/storage-2" begins with "/data/storage", but lies beside it.
    if not address.startswith(f"{folder}/"):
        return None
    relative = address[len(folder) + 1 :]
    # A URI is quoted, and `Location` quotes its path again when printed: "%20" would become "%2520".
    return unquote(relative) if is_uri else relative


def redacted(text: str) -> str:
    """A text whose addresses hold no credentials.

    >>> redacted("unrecognized arguments: --uri http://me:secret@host")
    'unrecognized arguments: --uri http://host'
    """
    return _IN_TEXT.sub(lambda found: without_credentials(found[1]) + found[2], text)
