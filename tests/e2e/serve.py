"""A small server of a Triton model repository over ONNX Runtime: the KServe v2 protocol over HTTP; as Triton in poll mode, it looks at the repository again and
again, loads what config.pbtxt asks for before it lets go of what it served, and without a version answers with the highest one that it serves.

    python serve.py REPOSITORY      prints the port that it listens at
"""
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy
import onnxruntime

POLL_S = 0.05


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Repository:
    def __init__(self, root):
        self.root, self.models = Path(root), {}    # {name: (config, {version: session})}

    def poll(self):
        found = {}
        for config in sorted(self.root.glob("*/config.pbtxt")):
            name, text = config.parent.name, config.read_text()
            known = self.models.get(name)
            if known and known[0] == text:
                found[name] = known
                continue
            versions = [int(v) for v in re.search(r"specific\s*{\s*versions:\s*\[([^]]*)\]", text).group(1).split(",")]
            assert re.search(r'^name: "(.*)"$', text, re.M).group(1) == name
            old = known[1] if known else {}
            found[name] = (text, {v: old[v] if v in old else session(config.parent / str(v) / "model.onnx") for v in versions})
        self.models = found                        # at once: a request sees the old ones or the new ones, and keeps what it took

    def take(self, name, version):
        _, versions = self.models[name]
        number = int(version) if version else max(versions)
        return number, versions[number]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True                 # head and body are two writes
    repository = None

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def handle_path(self, request):
        if self.path in ("/v2/health/ready", "/v2/health/live"):
            return self.answer(200, {})
        parts = re.fullmatch(r"/v2/models/([^/]+)(?:/versions/([0-9]+))?(?:/(ready|infer))?", self.path)
        try:
            number, model = self.repository.take(parts.group(1), parts.group(2))
        except (AttributeError, KeyError):
            return self.answer(404, {"error": f"{self.path} is not served"})
        if parts.group(3) != "infer":
            return self.answer(200, {"name": parts.group(1), "versions": [str(number)]})
        given = request["inputs"][0]
        out = model.run(None, {given["name"]: numpy.array(given["data"], numpy.float32).reshape(given["shape"])})[0]
        return self.answer(200, {"model_name": parts.group(1), "model_version": str(number),
                                 "outputs": [{"name": "logits", "datatype": "FP32", "shape": list(out.shape), "data": out.ravel().tolist()}]})

    def do_GET(self):
        self.handle_path(None)

    def do_POST(self):
        self.handle_path(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, *_):
        pass


def main():
    Handler.repository = repository = Repository(sys.argv[1])
    repository.poll()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    while True:
        time.sleep(POLL_S)
        repository.poll()


if __name__ == "__main__":
    main()
