"""The client's side of WebSocket (RFC 6455) over a connected socket: binary messages, ping, close."""

import base64
import hashlib
import os
import struct

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_CONTINUE, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10


class Closed(Exception):
    """The other side has closed."""

    def __init__(self, code, reason):
        super().__init__(f"closed with {code}: {reason}")
        self.code, self.reason = code, reason


class WebSocket:
    def __init__(self, sock, host, path, subprotocol):
        self._sock, self._in = sock, sock.makefile("rb")
        key = base64.b64encode(os.urandom(16))
        sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n".encode()
        )
        status = self._in.readline(4096).split()
        headers = {}
        while (line := self._in.readline(4096)) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        if status[1:2] != [b"101"]:
            raise ConnectionError(f"the node answers {status}")
        wanted = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        if headers.get(b"sec-websocket-accept") != wanted:
            raise ConnectionError("the answer is to another handshake")
        if headers.get(b"sec-websocket-protocol") != subprotocol.encode():
            raise ConnectionError(f"the node does not speak {subprotocol}")

    def send(self, message):
        self._send(_BINARY, message)

    def _send(self, opcode, payload):
        n = len(payload)
        head = bytes([0x80 | opcode])
        if n < 126:
            head += bytes([0x80 | n])
        elif n < 1 << 16:
            head += b"\xfe" + struct.pack(">H", n)
        else:
            head += b"\xff" + struct.pack(">Q", n)
        mask = os.urandom(4)
        masked = bytes(b ^ mask[i & 3] for i, b in enumerate(payload))
        self._sock.sendall(head + mask + masked)

    def _read(self, n):
        b = self._in.read(n)
        if len(b) != n:
            raise Closed(1006, "the connection broke")
        return b

    def receive(self, limit):
        """receive returns the next message, of at most limit bytes. It answers pings meanwhile."""
        message = b""
        while True:
            head = self._read(2)
            opcode, n = head[0] & 15, head[1] & 127
            if n == 126:
                (n,) = struct.unpack(">H", self._read(2))
            elif n == 127:
                (n,) = struct.unpack(">Q", self._read(8))
            if n + len(message) > limit:
                raise ConnectionError(f"a message of more than {limit} bytes")
            payload = self._read(n)
            if opcode == _PING:
                self._send(_PONG, payload)
            elif opcode == _CLOSE:
                self._send(_CLOSE, payload[:2])
                code = int.from_bytes(payload[:2], "big") if payload else 1005
                raise Closed(code, payload[2:].decode())
            elif opcode in (_CONTINUE, _BINARY):
                message += payload
                if head[0] & 0x80:
                    return message
            elif opcode != _PONG:
                raise ConnectionError(f"a message of kind {opcode}")

    def close(self):
        """close ends the connection as RFC 6455 section 7.1.1 wants it."""
        try:
            self._send(_CLOSE, (1000).to_bytes(2, "big"))
            while True:
                self.receive(1 << 24)
        except (Closed, OSError):
            pass
        self._in.close()
        self._sock.close()
