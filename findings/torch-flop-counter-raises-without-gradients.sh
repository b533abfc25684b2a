#!/usr/bin/env bash
# torch 2.13.0: FlopCounterMode raises under torch.no_grad() and torch.inference_mode() when a module is called with a view
# of a parameter, such as the first positions of an embedding that go through dropout. The same count works with gradients
# enabled, and the same forward pass works without the counter.
# Seen: enable_grad 64 operations; no_grad AssertionError "Expected gradient function to be set"; inference_mode
# AttributeError "'NoneType' object has no attribute 'next_functions'".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.utils.flop_counter import FlopCounterMode


class Positions(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = torch.nn.Parameter(torch.ones(8, 4))
        self.dropout = torch.nn.Dropout(0.1)
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x + self.dropout(self.positions[: len(x)]))


network, x = Positions().eval(), torch.ones(2, 4)
seen = {}
for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
    with mode():
        network(x)
        try:
            with FlopCounterMode(display=False) as counter:
                network(x)
            seen[mode.__name__] = counter.get_total_flops()
        except Exception as error:
            seen[mode.__name__] = f"{type(error).__name__}: {error}"
    print(f"{mode.__name__}: {seen[mode.__name__]}")
assert seen["enable_grad"] == 64, "the count with gradients enabled is another one"
assert seen["no_grad"] == "AssertionError: Expected gradient function to be set", "counting under no_grad changed"
assert str(seen["inference_mode"]).startswith("AttributeError"), "counting under inference_mode changed"
PYTHON
