"""What stands between a worker and the API or the broker, and spoils some of it."""

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

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
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
    """Passes bytes on to the broker at once, and back after `delay` seconds."""

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
            threading.Thread(target=self.carry, args=(client, broker, False), daemon=True).start()
            threading.Thread(target=self.carry, args=(broker, client, True), daemon=True).start()

    def carry(self, source, sink, late):
        try:
            while piece := source.recv(65536):
                if late:
                    time.sleep(self.delay)
                sink.sendall(piece)
        except OSError:
            pass
        for end in (source, sink):
            end.close()
