"""Trees of generated image files, and data sets in torchvision's own formats."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, size: int | tuple[int, int] = 8) -> Image.Image:
    """Noise, the same for the same number; ``size`` is (width, height) or both."""
    width, height = (size, size) if isinstance(size, int) else size
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def tree(folder: Path, classes=("cat", "dog"), count: int = 6, size: int | tuple[int, int] = 8, first: int = 0) -> Path:
    """``folder/CLASS/N.png``, ``count`` for each class."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture(first + 1000 * label + i, size).save(folder / name / f"{i}.png")
    return folder


def train_and_test(root: Path, **options) -> Path:
    tree(root / "train", **options)
    tree(root / "test", **{**options, "first": 500})
    return root


def tiny_imagenet(root: Path, classes=("n01", "n02"), count: int = 4, size: int = 8) -> Path:
    """As the original comes: train/WNID/images, val/images with val_annotations.txt, test/images without labels."""
    for label, name in enumerate(classes):
        (root / "train" / name / "images").mkdir(parents=True)
        for i in range(count):
            picture(100 * label + i, size).save(root / "train" / name / "images" / f"{name}_{i}.png")
    lines = []
    for split in ("val", "test"):
        (root / split / "images").mkdir(parents=True)
        for i in range(count):
            picture(900 + i, size).save(root / split / "images" / f"{split}_{i}.png")
    for i in range(count):
        lines.append(f"val_{i}.png\t{classes[i % len(classes)]}\t0\t0\t7\t7\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def cifar10_files(root: Path, count: int = 4) -> Path:
    """CIFAR-10's pickled batches, ``count`` images in each of six."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        content = {"data": rng.integers(0, 256, (count, 3072), np.uint8), "labels": rng.integers(0, 10, count).tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    return root


def cifar100_files(root: Path, count: int = 4) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        content = {
            "data": rng.integers(0, 256, (count, 3072), np.uint8),
            "fine_labels": rng.integers(0, 100, count).tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}))
    return root


def svhn_files(root: Path, count: int = 4) -> Path:
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        # SVHN writes the digit 0 as class 10.
        labels = (np.arange(count) % 10 + 1).reshape(-1, 1).astype(np.uint8)
        savemat(root / f"{split}_32x32.mat", {"X": rng.integers(0, 256, (32, 32, 3, count), np.uint8), "y": labels})
    return root


def fashion_mnist_files(root: Path, count: int = 4) -> Path:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("train", "t10k"):
        pixels = rng.integers(0, 256, (count, 28, 28), np.uint8)
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())
    return root
