"""A web server that stands in for the homes of published data sets."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Home:
    """A web server on loopback that offers one archive, or `files` by name, and can behave badly."""

    def __init__(self) -> None:
        self.archive = b""  # what an address without a file in `files` answers
        self.files: dict[str, bytes] = {}
        self.behaviour = "whole"  # or: cut, stall, missing
        self.requests = 0
        self.half_sent = threading.Event()
        self.release = threading.Event()
        home = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                home.requests += 1
                if home.behaviour == "missing":
                    self.send_error(404)
                    return
                content = home.files.get(self.path.removeprefix("/"), home.archive)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                half = len(content) // 2
                self.wfile.write(content[:half])
                self.wfile.flush()
                home.half_sent.set()
                if home.behaviour == "stall":
                    home.release.wait(60)
                elif home.behaviour == "whole":
                    self.wfile.write(content[half:])

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name of the base class
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False  # so that closing the server waits for its answers
        self.url = self.url_of("cifar.tar.gz")
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def url_of(self, file: str) -> str:
        """The address of a file."""
        return f"http://127.0.0.1:{self.server.server_port}/{file}"

    def stop(self) -> None:
        self.release.set()
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()
