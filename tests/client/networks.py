"""Networks in between: a relay that cuts, and a proxy that lets CONNECT through. Real sockets on loopback."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

HOST = "127.0.0.1"


class Relay:
    """Carries connections to a port, and cuts one after so many bytes from the site."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.cut_after: int | None = None
        """Bytes that still go through; None: all."""
        self.cuts = 0
        self.connections = 0
        self._pairs: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._server = socket.create_server((HOST, 0))
        self.port = self._server.getsockname()[1]
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _shut(self._server)
        self.lead_to(1)
        for thread in self._threads:
            thread.join(10)

    def lead_to(self, port: int) -> None:
        """Break every connection; new ones go to another port."""
        self.target = port
        for end in tuple(self._pairs):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                self.connections += 1
                self._pairs.append(near)
                self._start(self._carry, near)

    def _carry(self, near: socket.socket) -> None:
        far = self.dial(near)
        if far is None:
            _shut(near)
            return
        self._pairs.append(far)
        back = threading.Thread(target=_pump, args=(far, near, lambda data: data), daemon=True)
        back.start()
        _pump(near, far, self._through)
        back.join(10)

    def dial(self, near: socket.socket) -> socket.socket | None:
        """Connect to the other side."""
        with contextlib.suppress(OSError):
            return socket.create_connection((HOST, self.target))
        return None

    def _through(self, data: bytes) -> bytes | None:
        if self.cut_after is None:
            return data
        if self.cut_after < len(data):
            self.cuts, self.cut_after = self.cuts + 1, None
            return None
        self.cut_after -= len(data)
        return data


class Proxy(Relay):
    """Connects to what a CONNECT names, or, with a `port`, wherever that leads."""

    def __init__(self, port: int = 0) -> None:
        self.asked: list[str] = []
        super().__init__(port)

    def dial(self, near: socket.socket) -> socket.socket | None:
        """Read the CONNECT and obey it."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = near.recv(1)
            if not piece:
                return None
            head += piece
        self.asked.append(head.split(b"\r\n")[0].decode())
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        far = socket.create_connection((HOST, self.target) if self.target else (host, int(port)))
        near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        return far


def _pump(source: socket.socket, sink: socket.socket, through: Callable[[bytes], bytes | None]) -> None:
    with contextlib.suppress(OSError):
        while (data := source.recv(1 << 16)) and (passed := through(data)) is not None:
            sink.sendall(passed)
    _shut(source)
    _shut(sink)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
