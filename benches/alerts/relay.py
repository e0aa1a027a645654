"""What stands between a worker and the API or the broker, and spoils some of it."""

import queue
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATIENCE_SECONDS = 30


class ApiRelay:
    """Passes calls on; `spoil(path)` says which are answered by a server error instead."""

    def __init__(self, upstream, seed):
        self.chance = random.Random(seed)
        self.spoil = lambda path: False
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status, reply = relay.answer(upstream, self.path, body)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                """A worker that is ended in the middle of a call is no fault."""

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, upstream, path, body):
        if self.spoil(path):
            return 502, b"bad gateway"
        call = urllib.request.Request(upstream + path, body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(call, timeout=PATIENCE_SECONDS) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


class SlowBroker:
    """Passes bytes on to the broker at once, and each piece back `delay` seconds after it came."""

    def __init__(self, port):
        self.delay = 0.0
        self.upstream = ("127.0.0.1", port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            broker = socket.create_connection(self.upstream, timeout=PATIENCE_SECONDS)
            broker.settimeout(None)
            late = queue.SimpleQueue()
            for part, ends in [(self.up, (client, broker)), (self.down, (broker, late)), (self.late, (late, client, broker))]:
                threading.Thread(target=part, args=ends, daemon=True).start()

    def up(self, client, broker):
        for piece in pieces(client):
            if not sent(broker, piece):
                break
        ended(broker)

    def down(self, broker, late):
        # Pieces wait beside each other: one after the other they would be later and later.
        for piece in pieces(broker):
            late.put((time.monotonic() + self.delay, piece))
        late.put((0, b""))

    def late(self, late, client, broker):
        while True:
            due, piece = late.get()
            time.sleep(max(due - time.monotonic(), 0))
            if not piece or not sent(client, piece):
                break
        ended(client)
        ended(broker)


def pieces(source):
    try:
        while piece := source.recv(65536):
            yield piece
    except OSError:
        pass


def sent(sink, piece):
    try:
        sink.sendall(piece)
        return True
    except OSError:
        return False


def ended(end):
    """Whoever reads from it is notified, which closing alone does not do."""
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
