"""A server that speaks as much of vLLM's protocol as the client needs, and draws with a Hugging Face model."""

import copy
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from safetensors.torch import load_file

from rl4llm.rollouts import HuggingFaceEngine, Sampling

TOLD = {
    "model_config": {"logprobs_mode": "processed_logprobs"},
    "weight_transfer_config": {"backend": "rl4llm"},
}


class Stub:
    """What the server holds: a copy of a policy, what it was asked, and how it is made to fail."""

    def __init__(self, policy, told=TOLD, version="0.32.0"):
        self.policy, self.told, self.version = copy.deepcopy(policy), told, version
        self.asked, self.lock, self.failing, self.received = [], threading.Lock(), {}, {}

    def reply(self, path, body):
        with self.lock:
            self.asked.append(path)
            if path in self.failing:
                return self.failing[path]
            if path == "version":
                return 200, {"version": self.version}
            if path == "server_info":
                return (404, {"detail": "Not Found"}) if self.told is None else (200, {"vllm_config": self.told})
            if path == "update_weights":
                file = Path(body["update_info"]["file"])
                self.received |= load_file(file)
            if path == "finish_weight_update":
                self.policy.model.load_state_dict(self.received, strict=False)
                self.received = {}
            return 200, self.generated(body) if path == "inference/v1/generate" else {}

    def generated(self, body):
        chosen, top = body["sampling_params"], body["sampling_params"]["logprobs"]
        sampling = Sampling(chosen["temperature"], chosen["top_k"] or None, chosen["top_p"], chosen["max_tokens"])
        ids = torch.tensor([body["token_ids"]])
        asked = {"limits": torch.tensor([chosen["max_tokens"]]), "seeds": torch.tensor([chosen["seed"]])}
        engine = HuggingFaceEngine(self.policy, top_log_probs=max(top, 1))
        drawn = engine.generate(ids, ids >= 0, asked["limits"], copies=1, sampling=sampling, seeds=asked["seeds"])
        content = [
            {
                "token_id": int(drawn.ids[0, t]),
                "logprob": float(drawn.log_probs[0, t]),
                "top_logprobs": [
                    {"token_id": int(i), "logprob": float(x)}
                    for i, x in zip(drawn.top_ids[0, t, :top], drawn.top_log_probs[0, t, :top], strict=True)
                ],
            }
            for t in range(drawn.ids.shape[1])
        ]
        return {"choices": [{"token_ids": drawn.ids[0].tolist(), "logprobs": {"content": content}}]}


@contextmanager
def serving(policy, **options):
    """Run a stub; its address and the stub."""
    stub = Stub(policy, **options)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size) or "null")
            status, answer = stub.reply(self.path.lstrip("/").partition("?")[0], body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        do_GET = do_POST  # noqa: N815

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
