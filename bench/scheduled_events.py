"""Azure's metadata service for one machine, as far as scheduled events go."""
import http.server
import json
import threading
import time


class ScheduledEvents:
    """Plays the machine `vm`; nothing is planned until preempt() is called."""

    def __init__(self, vm):
        self.vm = vm
        self.document = {"DocumentIncarnation": 1, "Events": []}
        self.approved = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps(service.document).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.approved += [start["EventId"] for start in request["StartRequests"]]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def preempt(self):
        """Azure gives 30 seconds."""
        not_before = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
        self.document = {"DocumentIncarnation": 2, "Events": [{
            "EventId": "bench-preempt", "EventType": "Preempt", "ResourceType": "VirtualMachine", "Resources": [self.vm],
            "EventStatus": "Scheduled", "NotBefore": not_before, "Description": "Spot eviction", "EventSource": "Platform",
            "DurationInSeconds": -1}]}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
