# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian mirror on this host for guests: what the host's own apt is set up with, over HTTP.

What was fetched once is kept in the cache, but for the indices (dists/), which have to fit to
one another and are fetched anew by each run."""
import http.server
import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.request


def upstream():
    """Where the host's apt has Debian 12 from."""
    said = subprocess.check_output(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"],
        text=True,
    )
    for line in said.split("\n"):
        uri, _, release = line.partition(" ")
        if release == "bookworm" and uri.startswith("http"):
            return uri.rstrip("/")
    return None


class Mirror:
    """Serves /debian/... on a port of the loopback interface until close()."""

    def __init__(self):
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        cache = os.path.join(os.environ.get("POSADA_CACHE", os.path.join(base, "posada")), "mirror")
        uri = upstream()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format, *args):  # pylint: disable=redefined-builtin
                pass

            def send_file(self, path, with_body):
                with open(path, "rb") as f:
                    self.send_response(200)
                    self.send_header("Content-Length", str(os.fstat(f.fileno()).st_size))
                    self.end_headers()
                    if with_body:
                        shutil.copyfileobj(f, self.wfile)

            def answer(self, with_body):
                path = os.path.normpath(self.path)
                if not path.startswith("/debian/"):
                    self.send_error(404)
                    return
                rest = path[len("/debian/") :]
                kept = os.path.join(cache, rest)
                if not rest.startswith("dists/") and os.path.exists(kept):
                    self.send_file(kept, with_body)
                    return
                os.makedirs(os.path.dirname(kept), exist_ok=True)
                part = "%s.%d" % (kept, threading.get_ident())
                try:
                    with urllib.request.urlopen(uri + "/" + rest, timeout=60) as page:
                        with open(part, "wb") as f:
                            shutil.copyfileobj(page, f)
                except urllib.error.HTTPError as e:
                    self.send_error(e.code)
                    return
                except OSError:
                    self.send_error(503)
                    return
                os.replace(part, kept)
                self.send_file(kept, with_body)

            def do_GET(self):
                self.answer(True)

            def do_HEAD(self):
                self.answer(False)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
