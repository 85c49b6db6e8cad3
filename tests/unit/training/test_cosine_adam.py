"""The optimizer of pooled training, pretraining and fine-tuning: torch's own Adam, without torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import torch

from fedinfer.training.cosine_adam import CosineAdam


def test_it_takes_the_steps_of_adam_under_a_cosine_schedule() -> None:
    generator = torch.Generator().manual_seed(3)
    start = [torch.randn(4, 3, generator=generator), torch.randn(3, generator=generator), torch.ones(2)]
    mine, theirs = ([value.clone().requires_grad_() for value in start] for _ in range(2))
    ours = CosineAdam(mine, 0.05, 25, weight_decay=0.01)
    reference = torch.optim.Adam(theirs, lr=0.05, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, 25)
    for step in range(25):
        x = torch.randn(8, 4, generator=generator)
        for parameters, optimizer in ((mine, ours), (theirs, reference)):
            optimizer.zero_grad()
            loss = torch.tanh(x @ parameters[0] + parameters[1]).square().mean()
            (loss + parameters[2].sum() if step % 2 else loss).backward()  # the last one has no gradient at times
            optimizer.step()
        schedule.step()
    for one, other, first in zip(mine, theirs, start, strict=True):
        assert (one - first).abs().max() > 0.05
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_it_imports_neither_the_compiler_nor_sympy() -> None:
    code = """
import sys, torch
from fedinfer.training.cosine_adam import CosineAdam
weight = torch.ones(3, requires_grad=True)
optimizer = CosineAdam([weight], 0.1, 5)
weight.sum().backward()
optimizer.step()
print(sorted({"torch._dynamo", "sympy"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
