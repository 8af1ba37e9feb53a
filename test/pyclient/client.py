#!/usr/bin/env python3
"""A small device in another language than the node, written against docs/spec/protocol.md alone.

It knows nothing of MLS: KeyPackages are given to it as files. It needs Python 3.9 and, for Ed25519,
the package cryptography (Debian: python3-cryptography). Examples:

  client.py --server https://127.0.0.1:8443 --root root.pem --device mimi://a.example/d/alice/phone \
      --seed phone.seed enrol --code CODE --chain phone.chain
  client.py ... upload keypackage.bin
  client.py ... count
  client.py ... claim mimi://b.example/u/bob --suite 1
  client.py ... read --items 3

Results are lines of JSON on standard output; byte strings are in hexadecimal.
"""

import argparse
import http.client
import json
import os
import socket
import ssl
import sys
from urllib.parse import urlsplit

sys.dont_write_bytecode = True

import cbor  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: E402
from websocket import Closed, WebSocket  # noqa: E402

CHALLENGE, LOGIN, SESSION, REQUEST, ANSWER, ERROR, PUSH, ACK = range(1, 9)
MAX_BEFORE_SESSION = 1 << 16  # bytes of a frame, until the node says how large they may be
INBOX = bytes(16)


class NodeError(Exception):
    """An Error that the node sent."""

    def __init__(self, fields):
        self.code, self.text = fields[1], fields.get(3, "")
        super().__init__(f"{fields.get(2, '')}: {self.code}: {self.text}")


def frame(kind, body=None, request=0, method=""):
    """frame encodes a Frame. Keys with a zero value are absent."""
    fields = {1: kind}
    if request:
        fields[2] = request
    if method:
        fields[3] = method
    if body is not None:
        fields[4] = cbor.encode(body)
    return cbor.encode(fields)


def public_key(key):
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


class Node:
    """Node is where the device's organization can be reached. Its certificate must end in the root, and
    be for the host, or for a node of the organization: an invitation names the root, and any address."""

    def __init__(self, url, root, domain):
        parts = urlsplit(url)
        self.host, self.port, self.domain = parts.hostname, parts.port or 443, domain
        self.tls = ssl.create_default_context(cafile=root)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self.tls.check_hostname = False  # secure does it

    def secure(self):
        sock = socket.create_connection((self.host, self.port), timeout=60)
        sock = self.tls.wrap_socket(sock, server_hostname=self.host)
        names = [name for _, name in sock.getpeercert().get("subjectAltName", ())]
        if not any(n in (self.host, self.domain) or n.endswith("." + self.domain) for n in names):
            sock.close()
            raise ssl.SSLCertVerificationError(f"the certificate is for {names}, not for {self.host} or a node of {self.domain}")
        return sock

    def call(self, method, path, body=None):
        """call makes an HTTP request with CBOR in and out."""
        c = http.client.HTTPConnection(self.host, self.port, timeout=60)
        c.sock = self.secure()
        try:
            c.request(method, path, body, {"Content-Type": "application/cbor"} if body else {})
            r = c.getresponse()
            answer = cbor.decode(r.read(1 << 20))
        finally:
            c.close()
        if r.status != 200:
            raise NodeError(answer)
        return answer

    def connect(self):
        return WebSocket(self.secure(), f"{self.host}:{self.port}", "/v1/ws", "mlsfed.v1")


def enrol(node, device, key, code):
    public = public_key(key)
    proof = key.sign(b"mlsfed enrol 1\0" + device.encode() + b"\0" + public)
    request = {1: device, 2: public, 3: proof, 4: code}
    return node.call("POST", "/v1/enrol", cbor.encode(request))[1]


class Session:
    """Session is a device that is logged in."""

    def __init__(self, node, device, key, receive):
        domain = device.split("/")[2]
        self.ws, self.max_frame = node.connect(), MAX_BEFORE_SESSION
        self.last, self.pushes = 0, []
        challenge = cbor.decode(self._expect(CHALLENGE))
        if challenge[1] != 1 or challenge[2] != domain:
            raise ConnectionError(f"the node is of {challenge[2]}, version {challenge[1]}")
        signed = b"mlsfed login 1\0" + cbor.encode([challenge[2], challenge[3], device])
        login = {1: device, 2: key.sign(signed)}
        if receive:
            login[3] = True
        self.ws.send(frame(LOGIN, login))
        self.bounds = cbor.decode(self._expect(SESSION))
        self.max_frame = self.bounds[4]

    def _next(self):
        f = cbor.decode(self.ws.receive(self.max_frame))
        if f[1] == ERROR and 2 not in f:
            raise NodeError(cbor.decode(f[4]))  # the node closes next
        return f

    def _expect(self, kind):
        f = self._next()
        if f[1] != kind:
            raise ConnectionError(f"a frame of type {f[1]}, wanted {kind}")
        return f[4]

    def request(self, method, body=None):
        """request returns what the method returns, None for nothing."""
        self.last += 1
        self.ws.send(frame(REQUEST, body, self.last, method))
        while True:
            f = self._next()
            if f[1] == PUSH:
                self.pushes.append(cbor.decode(f[4]))
            elif f[1] == ERROR and f[2] == self.last:
                raise NodeError(cbor.decode(f[4]))
            elif f[1] == ANSWER and f[2] == self.last:
                return cbor.decode(f[4]) if 4 in f else None

    def push(self):
        """push waits for the next push."""
        return self.pushes.pop(0) if self.pushes else cbor.decode(self._expect(PUSH))

    def acknowledge(self, push):
        ack = {2: push[2], 3: push[3]}
        if 1 in push:
            ack[1] = push[1]
        self.ws.send(frame(ACK, ack))

    def close(self):
        self.ws.close()


def read(session, items, conversation):
    """read prints items of the inbox, or of a conversation, and acknowledges them."""
    stored = 0  # the highest sequence of the stream that this device has
    while items:
        p = session.push()
        if p.get(1) != conversation:
            continue  # of another stream: it comes again in another session
        sequence = p[3]
        if sequence > stored:
            if 8 in p:
                show(gap=[p[8], sequence])
            else:
                show(sequence=sequence, kind=p[4], id=p[5], time=p[6], payload=p.get(7, b""))
                items -= 1
            stored = sequence
        session.acknowledge(p)


def show(**fields):
    print(json.dumps(fields, default=lambda b: b.hex()), flush=True)


def load_key(path):
    """load_key reads a seed of 32 bytes in hexadecimal. It makes one where there is no file."""
    if not os.path.exists(path):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(os.urandom(32).hex() + "\n")
    with open(path) as f:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(f.read().strip()))


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--server", required=True, help="https://host:port of a node")
    p.add_argument("--root", required=True, help="PEM file with the root of the node's TLS certificate")
    p.add_argument("--device", required=True, help="mimi://domain/d/user/device")
    p.add_argument("--seed", required=True, help="file with the Ed25519 seed; made if there is none")
    do = p.add_subparsers(dest="do", required=True)
    do.add_parser("organization", help="show the organization")
    c = do.add_parser("enrol", help="enrol the device with an invitation")
    c.add_argument("--code", required=True)
    c.add_argument("--chain", help="folder to put the certificates into, as 0.der, 1.der, …")
    c = do.add_parser("upload", help="upload KeyPackages")
    c.add_argument("files", nargs="+", help="each an MLSMessage with a KeyPackage")
    c.add_argument("--token", help="of the first one's address, in hexadecimal; random without it, as those of the others")
    do.add_parser("count", help="show how many KeyPackages are left")
    c = do.add_parser("claim", help="claim a KeyPackage of each device of a user")
    c.add_argument("user")
    c.add_argument("--suite", type=int, default=1)
    c = do.add_parser("read", help="read and acknowledge items of a stream")
    c.add_argument("--items", type=int, default=1, help="how many to wait for")
    c.add_argument("--conversation", type=bytes.fromhex, help="in hexadecimal; the inbox without it")
    return p.parse_args()


def upload(session, files, token=None):
    packages = []
    for name in files:
        with open(name, "rb") as f:
            address = bytes.fromhex(token) if token else os.urandom(16)
            packages.append({1: f.read(), 2: address})
        token = None
        show(token=address)
    session.request("upload", {1: packages})


def run(a):
    node, key = Node(a.server, a.root, a.device.split("/")[2]), load_key(a.seed)
    if a.do == "organization":
        o = node.call("GET", "/v1/organization")
        return show(domain=o[1], root=o[2])
    if a.do == "enrol":
        chain = enrol(node, a.device, key, a.code)
        if a.chain:
            os.makedirs(a.chain, exist_ok=True)
            for i, der in enumerate(chain):
                with open(os.path.join(a.chain, f"{i}.der"), "wb") as f:
                    f.write(der)
        return show(chain=chain)
    session = Session(node, a.device, key, receive=a.do == "read")
    try:
        if a.do == "upload":
            upload(session, a.files, a.token)
        elif a.do == "count":
            for c in session.request("count")[1]:
                show(suite=c[1], left=c[2], last_resort=c.get(3, False))
        elif a.do == "claim":
            claim = {1: os.urandom(16), 2: a.user, 3: a.suite}
            for m in session.request("keyMaterial", claim)[1]:
                show(device=m[1], organization=m[2][0], token=m[2][1], message=m[3], last_resort=m.get(4, False))
        elif a.do == "read":
            read(session, a.items, a.conversation)
    finally:
        session.close()


if __name__ == "__main__":
    try:
        run(arguments())
    except (NodeError, Closed, ConnectionError) as e:
        print(e, file=sys.stderr)
        sys.exit(1)
