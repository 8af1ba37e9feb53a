"""CBOR (RFC 8949) in its core deterministic encoding, as far as docs/spec/protocol.md uses it.

Values are int, bytes, str, bool, list, and dict with unsigned integers as keys.
"""


class Malformed(Exception):
    """The input is not what encode would have written."""


def _head(major, n):
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if n < 24:
            return bytes([major << 5 | n])
        if n < 1 << 8 * size:
            return bytes([major << 5 | extra]) + n.to_bytes(size, "big")
    raise ValueError("integer of more than 64 bits")


def encode(v):
    """encode writes a value in its only encoding."""
    if isinstance(v, bool):
        return b"\xf5" if v else b"\xf4"
    if isinstance(v, int):
        return _head(0, v) if v >= 0 else _head(1, -1 - v)
    if isinstance(v, bytes):
        return _head(2, len(v)) + v
    if isinstance(v, str):
        b = v.encode()
        return _head(3, len(b)) + b
    if isinstance(v, list):
        return _head(4, len(v)) + b"".join(encode(e) for e in v)
    if isinstance(v, dict):
        pairs = sorted((encode(k), encode(e)) for k, e in v.items())
        return _head(5, len(pairs)) + b"".join(k + e for k, e in pairs)
    raise TypeError(f"no encoding for {type(v).__name__}")


def decode(b):
    """decode reads one value that takes up all of b."""
    v, rest = _decode(b, 0)
    if rest != len(b):
        raise Malformed(f"{len(b) - rest} bytes follow the value")
    if encode(v) != b:
        raise Malformed("not in the deterministic encoding")
    return v


def _take(b, at, n):
    if n > len(b) - at:
        raise Malformed("the value breaks off")
    return b[at : at + n], at + n


def _decode(b, at, depth=0):
    if depth > 8:
        raise Malformed("nested too deeply")
    head, at = _take(b, at, 1)
    major, n = head[0] >> 5, head[0] & 31
    if major == 7:
        if n not in (20, 21):
            raise Malformed(f"simple value {n}")
        return n == 21, at
    if n > 27:
        raise Malformed("indefinite length")
    if n >= 24:
        raw, at = _take(b, at, 1 << n - 24)
        n = int.from_bytes(raw, "big")
    if major == 0:
        return n, at
    if major == 1:
        return -1 - n, at
    if major in (2, 3):
        raw, at = _take(b, at, n)
        return (raw if major == 2 else raw.decode()), at
    if major == 6:
        raise Malformed("a tag")
    if n > len(b) - at:
        raise Malformed("the value breaks off")
    items = []
    for _ in range(n if major == 4 else 2 * n):
        v, at = _decode(b, at, depth + 1)
        items.append(v)
    return (items if major == 4 else dict(zip(items[::2], items[1::2]))), at
