"""A plain training loop with timm's network, data and optimizer, kept sparse by granet.

    python docs/examples/timm_loop.py IMAGES --model resnet18 --density 0.1 --epochs 90

IMAGES is a folder of folders: IMAGES/train/CLASS/*.jpg and IMAGES/val/CLASS/*.jpg. Started again with the same
arguments, it goes on after the last epoch that was finished. Needs timm: pip install 'granet[timm]'.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

import granet
from granet.models.torchvision_guard import import_torchvision

import_torchvision()  # timm needs it; beside a torch without CUDA a plain import of the usual wheel fails

import timm  # noqa: E402
import timm.data  # noqa: E402
import timm.optim  # noqa: E402
import timm.utils  # noqa: E402


def main() -> None:
    """Trains, validates after every epoch and saves."""
    options = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    timm.utils.random_seed(options.seed)

    train_set, validation_set = (timm.data.create_dataset("", options.images, split=s) for s in ("train", "val"))
    common = {"input_size": (3, options.size, options.size), "batch_size": options.batch_size, "device": device}
    common |= {"num_workers": options.workers, "use_prefetcher": device.type == "cuda"}
    loader = timm.data.create_loader(train_set, is_training=True, **common)
    validation = timm.data.create_loader(validation_set, is_training=False, **common)

    model = timm.create_model(options.model, num_classes=len(train_set.reader.class_to_idx)).to(device)
    optimizer = timm.optim.create_optimizer_v2(
        model, opt=options.optimizer, lr=options.learning_rate, weight_decay=1e-4, momentum=0.9
    )
    steps = len(loader) * options.epochs
    method = granet.methods.GraNet(density=options.density, interval=options.interval)
    sparsifier = granet.Sparsifier(model, optimizer, method, total_steps=steps, seed=options.seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)

    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "sparsifier": sparsifier}
    if options.checkpoint.exists():
        saved = torch.load(options.checkpoint, map_location=device, weights_only=True)
        for name, part in parts.items():  # the sparsifier comes last: it wants model and optimizer loaded
            part.load_state_dict(saved[name])

    for epoch in range(sparsifier.steps // len(loader), options.epochs):
        timm.utils.random_seed(options.seed + epoch)  # the order of the images is that of the epoch, also if resumed
        model.train()
        for images, labels in loader:
            F.cross_entropy(model(images.to(device)), labels.to(device)).backward()
            optimizer.step()
            sparsifier.step()
            optimizer.zero_grad()
            schedule.step()

        model.eval()
        correct = 0.0
        with torch.no_grad():
            for images, labels in validation:
                correct += float((model(images.to(device)).argmax(1) == labels.to(device)).sum())
        accuracy = correct / len(validation_set)
        print(f"epoch {epoch + 1}: accuracy {accuracy:.4f}, density {sparsifier.density:.4f}")
        unfinished = options.checkpoint.with_suffix(".part")
        torch.save({name: part.state_dict() for name, part in parts.items()}, unfinished)
        unfinished.replace(options.checkpoint)


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--optimizer", default="sgd", help="one of timm.optim.list_optimizers()")
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--interval", type=int, default=1000, help="steps between updates")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=Path("timm_loop.pt"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
