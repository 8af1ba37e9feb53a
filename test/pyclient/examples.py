#!/usr/bin/env python3
"""Makes the examples of docs/spec/protocol.md anew from what its text says, and compares.

  examples.py docs/spec/protocol.md
"""

import hashlib
import re
import sys

sys.dont_write_bytecode = True

import cbor  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: E402

DEVICE, NONCE = "mimi://a.example/d/alice/phone", b"\xaa" * 32


def made():
    key = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    challenge = {1: 1, 2: "a.example", 3: NONCE, 4: 1700000000000}
    signed = b"mlsfed login 1\0" + cbor.encode(["a.example", NONCE, DEVICE])
    message = {1: 1, 2: b"conversation-one", 3: b"\x01" * 16, 4: 4, 5: b"ciphertext"}
    delivery = {1: [["a.example", b"\x02" * 16]]}
    return {
        "challenge": cbor.encode({1: 1, 4: cbor.encode(challenge)}),
        "input": signed,
        "login": cbor.encode({1: 2, 4: cbor.encode({1: DEVICE, 2: key.sign(signed), 3: True})}),
        "enrol": b"mlsfed enrol 1\0" + DEVICE.encode() + b"\0" + public,
        "message": b"mlsfed message 1\0" + cbor.encode(message),
        "binding": hashlib.sha256(b"mlsfed delivery 1\0" + cbor.encode(delivery)).digest(),
        "order": hashlib.sha256(b"mlsfed order 1\0" + bytes(32) + b"entry").digest(),
    }


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        text = f.read()
    found = dict(re.findall(r"<!-- example: (\w+) -->\n```hex\n([0-9a-f\n]*)```", text))
    wrong = [name for name, b in made().items() if found.get(name, "").replace("\n", "") != b.hex()]
    if wrong or len(found) != len(made()):
        sys.exit(f"the examples {wrong} are not what the text says; {len(found)} of {len(made())} are there")


if __name__ == "__main__":
    main()
