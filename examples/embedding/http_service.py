"""A model over HTTP: POST a text, and its answer comes as it is generated.

    python examples/embedding/http_service.py BUNDLE 8000
    curl --no-buffer --data 'How are you?' localhost:8000

Each client has a thread of the server, all clients share the batch of one `seq2edge.Service`. On a
network of others put a proxy in front: this server knows neither TLS nor who asks.
"""

from __future__ import annotations

import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import seq2edge
from seq2edge.errors import CapacityError, InputError, Seq2EdgeError, ServiceError

LONGEST = 100_000  # bytes of a text
SECONDS = 60  # for an answer, and for a client that neither sends nor reads
STATUS = {
    InputError: HTTPStatus.BAD_REQUEST,
    CapacityError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ServiceError: HTTPStatus.SERVICE_UNAVAILABLE,  # too many wait, or it is closing
}


class Server(ThreadingHTTPServer):
    """A thread for each client, and the service that they share."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, address: tuple[str, int], model: seq2edge.Model) -> None:
        """Port 0 is any that is free."""
        super().__init__(address, Handler)
        self.options = model.options.replace(max_time=SECONDS)
        self.service = seq2edge.Service(model)

    def server_close(self) -> None:
        """Also of the service: who waits gets an error."""
        super().server_close()
        self.service.close()


class Handler(BaseHTTPRequestHandler):
    """One client."""

    protocol_version = "HTTP/1.1"  # for chunks
    timeout = SECONDS
    server: Server

    def do_POST(self) -> None:
        """Answer the text in the body."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"text: at most {LONGEST} bytes")
            return
        try:
            text = self.rfile.read(int(length)).decode("utf-8")
            reply = self.server.service.generate(text, self.server.options)
        except UnicodeDecodeError:
            self._refuse(HTTPStatus.BAD_REQUEST, "text: no UTF-8")
            return
        except tuple(STATUS) as error:
            self._refuse(STATUS[type(error)], str(error))
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in reply:
                self._send_chunk(piece.encode("utf-8"))
            self._send_chunk(b"")
        except (OSError, Seq2EdgeError) as error:  # without the last chunk the client knows
            reply.cancel()
            self.close_connection = True
            self.log_error("%s", error)

    def _send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        body = f"{reason}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")  # what remains of the body is not read
        self.end_headers()
        self.wfile.write(body)


def main(bundle: str, port: str = "8000") -> None:
    """Serve until Ctrl-C."""
    with Server(("127.0.0.1", int(port)), seq2edge.load(bundle)) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("closing", file=sys.stderr)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Seq2EdgeError as error:
        sys.exit(f"http_service: {error}")
