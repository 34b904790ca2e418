"""Whose code a store holds: what sweeps of this user have written is signed with a key that only this user has.

The key is 32 random bytes in `jaxfact/key` of the user's configuration. Whoever changes the code of a store, or makes
one, lacks it.
"""

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

_BYTES = 32


def signature(*texts: str) -> str:
    """Return what shows that this user has written some texts; nothing where there is no place for a key."""
    key = _key()
    return "" if key is None else _signed(key, texts)


def is_own(signed: str, *texts: str) -> bool:
    """Tell whether this user has signed these texts."""
    key = _key()
    return key is not None and hmac.compare_digest(signed.encode(), _signed(key, texts).encode())


def _signed(key: bytes, texts: tuple[str, ...]) -> str:
    return hmac.new(key, json.dumps(texts).encode(), hashlib.sha256).hexdigest()


def _key() -> bytes | None:
    """Return the key of this user, made where there is none yet; None where it is not for this user alone."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    with suppress(OSError, RuntimeError):  # RuntimeError: a user without a home
        file = folder.expanduser() / "jaxfact" / "key"
        if not file.exists():
            _make(file)
        with file.open("rb") as opened:
            about, key = os.fstat(opened.fileno()), opened.read()
        # What others can read or replace shows nothing about who has signed.
        if len(key) == _BYTES and about.st_uid == os.getuid() and not about.st_mode & 0o077:
            return key
    return None


def _make(file: Path) -> None:
    """Make a key, unless another process is faster."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made, name = tempfile.mkstemp(dir=file.parent)  # readable by this user alone
    try:
        with os.fdopen(made, "wb") as opened:
            opened.write(secrets.token_bytes(_BYTES))
        with suppress(FileExistsError):
            os.link(name, file)
    finally:
        Path(name).unlink(missing_ok=True)
