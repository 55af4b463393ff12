"""Types that are decoded in several threads.

msgspec resolves a type's fields when it is first decoded, and ends the process where two threads do so at once (0.22, and a node is sent
messages by many). So each type is resolved under a lock before.
"""

from __future__ import annotations

import threading
from typing import TypeVar

import msgspec

T = TypeVar("T")
_lock = threading.RLock()
_resolved: set[object] = set()


def prepared(kind: T) -> T:
    """The type itself, which may now be decoded in any thread."""
    if kind not in _resolved:
        with _lock:
            msgspec.msgpack.Decoder(kind)
            _resolved.add(kind)
    return kind
