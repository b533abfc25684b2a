#!/usr/bin/env bash
# torch 2.13.0: a fused optimizer changes the parameters and leaves their version counter as it was. Going backward through a
# graph recorded before the step raises with the plain and the foreach optimizer, because a saved weight has changed. With
# fused=True it returns a gradient at the new weight, without an error or a warning.
# Seen: SGD, Adam, AdamW and Adagrad: plain and foreach raise; fused: version 0 before and after the step, and the gradient of
# the sum of squares is twice the new weight.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch


def second_backward(optimizer_class, **implementation):
    """Return the versions of the weight around one step, and what going backward again through the old graph does."""
    weight = torch.nn.Parameter(torch.tensor([2.0, 3.0]))
    optimizer = optimizer_class([weight], lr=1.0, **implementation)
    loss = weight.square().sum()
    loss.backward(retain_graph=True)
    before = weight._version
    optimizer.step()
    after = weight._version
    optimizer.zero_grad()
    try:
        loss.backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return before, after, "raises"
    right = weight.grad.tolist() == [4.0, 6.0]
    assert right or torch.equal(weight.grad, 2 * weight.detach())
    return before, after, "right gradient" if right else f"gradient {weight.grad.tolist()} instead of [4.0, 6.0]"


for optimizer_class in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad):
    for implementation in ({"foreach": False}, {"foreach": True}, {"fused": True}):
        before, after, result = second_backward(optimizer_class, **implementation)
        print(f"{optimizer_class.__name__}, {implementation}: version {before} -> {after}, backward again: {result}")
        if "fused" in implementation:
            assert before == after, "a fused step now counts as a change"
            assert "instead of" in result, "backward after a fused step now raises, or is right"
        else:
            assert before < after, "a step that is not fused no longer counts as a change"
            assert result == "raises", "backward after a step that is not fused no longer raises"
PYTHON
