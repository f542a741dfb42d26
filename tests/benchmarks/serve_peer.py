"""The servers that serve.py sets beside ours. Runs in their environment: it imports nothing of Heliostat.

    python serve_peer.py pipeline|litserve|onnx PORT CHECKPOINT     (bentoml: serve_peer_bento.py)

All of them hold the weights of one checkpoint of ours: MiniLM as transformers reads it, the mean over the tokens, one
linear layer.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn
from transformers import AutoModel, AutoTokenizer, BertConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))


class Review(BaseModel):
    """A request."""

    text: str


class MeanPooled(PreTrainedModel):  # type: ignore[misc]
    """Logits over the mean of the last states."""

    config_class = BertConfig
    _supports_sdpa = True

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        bert = AutoModel.from_pretrained(folder / "encoder", attn_implementation="sdpa")
        head = load_file(folder / "head" / "model.safetensors")
        labels = json.loads((folder / "head" / "labels.json").read_text(encoding="utf-8"))["labels"]
        bert.config.id2label = dict(enumerate(labels))
        bert.config.label2id = {label: place for place, label in enumerate(labels)}
        super().__init__(bert.config)
        self.bert = bert
        self.linear = nn.Linear(bert.config.hidden_size, len(labels))
        self.linear.load_state_dict({name.removeprefix("linear."): head[name] for name in head})
        self.eval().requires_grad_(False)

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None, **_: Any) -> Any:
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)[0]
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        return SequenceClassifierOutput(logits=self.linear((states * weights).sum(1) / weights.sum(1)))


def tokenizer_of(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder / "encoder")


class Classifier:
    """The plain way: tokenise with padding, one forward pass, softmax."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(THREADS)
        self.tokenizer, self.model = tokenizer_of(folder), MeanPooled(folder)
        self.labels = list(self.model.config.id2label.values())

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """The probability of each label, a text."""
        read = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        rows = self.model(**read).logits.softmax(-1).tolist()
        return [dict(zip(self.labels, row, strict=True)) for row in rows]


def pipeline_app(folder: Path) -> Any:
    """FastAPI around transformers' pipeline."""
    from fastapi import FastAPI
    from transformers import pipeline

    torch.set_num_threads(THREADS)
    classify = pipeline("text-classification", model=MeanPooled(folder), tokenizer=tokenizer_of(folder), top_k=None)
    app = FastAPI()

    @app.post("/predict")
    async def predict(review: Review) -> dict[str, float]:
        (found,) = classify([review.text], truncation=True)
        return {each["label"]: each["score"] for each in found}

    return app


def onnx_app(folder: Path) -> Any:
    """FastAPI around ONNX Runtime's int8 model."""
    import numpy as np
    import onnxruntime
    from fastapi import FastAPI

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(onnx_file(folder), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    tokenizer, labels = tokenizer_of(folder), json.loads((folder / "head" / "labels.json").read_text())["labels"]
    app = FastAPI()

    @app.post("/predict")
    async def predict(review: Review) -> dict[str, float]:
        read = tokenizer([review.text], truncation=True, return_tensors="np")
        (logits,) = session.run(None, {name: read[name].astype(np.int64) for name in names})
        exps = np.exp(logits[0] - logits[0].max())
        return dict(zip(labels, (exps / exps.sum()).tolist(), strict=True))

    return app


class _Logits(nn.Module):
    def __init__(self, model: MeanPooled) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        return self.model(input_ids, attention_mask, token_type_ids).logits


def onnx_file(folder: Path) -> str:
    """The int8 model beside the checkpoint, made once: exported, fused by ONNX Runtime's optimiser, quantised."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    made = folder.parent / "int8.onnx"
    if not made.exists():
        plain, fused = folder.parent / "plain.onnx", folder.parent / "fused.onnx"
        model = MeanPooled(folder)
        model.bert.set_attn_implementation("eager")
        read = tokenizer_of(folder)(["a text", "another and longer text"], padding=True, return_tensors="pt")
        names = ["input_ids", "attention_mask", "token_type_ids"]
        axes = {name: {0: "texts", 1: "tokens"} for name in names}
        inputs = tuple(read[name] for name in names)
        torch.onnx.export(_Logits(model), inputs, plain, input_names=names, dynamic_axes=axes, dynamo=False)
        size = model.config
        optimizer.optimize_model(
            str(plain), "bert", num_heads=size.num_attention_heads, hidden_size=size.hidden_size
        ).save_model_to_file(str(fused))
        types = {"DefaultTensorType": TensorProto.FLOAT}
        quantize_dynamic(fused, made, weight_type=QuantType.QInt8, per_channel=True, extra_options=types)
    return str(made)


def lit_server(folder: Path) -> Any:
    """LitServe with batches."""
    import litserve

    from serve_peer_lit import Api

    size, wait_s = int(os.environ.get("BATCH", "32")), float(os.environ.get("WAIT_S", "0.01"))
    return litserve.LitServer(
        Api(folder, max_batch_size=size, batch_timeout=wait_s),
        accelerator="cpu",
        workers_per_device=int(os.environ.get("WORKERS", "1")),
        fast_queue=True,
        timeout=60,
    )


def app() -> Any:
    """What uvicorn's workers call."""
    build = {"pipeline": pipeline_app, "onnx": onnx_app}[os.environ["SIDE"]]
    return build(Path(os.environ["CHECKPOINT"]))


def main() -> None:
    side, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    if side == "litserve":
        lit_server(folder).run(port=port, host="127.0.0.1", generate_client_file=False, log_level="warning")
        return
    import uvicorn

    if side == "onnx":
        onnx_file(folder)
    os.environ.update(SIDE=side, CHECKPOINT=str(folder))
    workers = int(os.environ.get("WORKERS", "1"))
    uvicorn.run(
        "serve_peer:app",
        factory=True,
        host="127.0.0.1",
        port=port,
        workers=workers,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
