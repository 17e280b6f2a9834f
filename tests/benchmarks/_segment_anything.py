"""What `segment_anything` takes to embed an image and to answer a point."""

from __future__ import annotations

import numpy as np
import torch
from _measure import Answer, Works, gigabytes, main, seconds
from _reference import reference_sam
from _scene import embedded_image, squares
from segment_anything import SamPredictor
from torch.utils.flop_counter import FlopCounterMode


def _precision(name: str, device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=name == "bf16")


def _predictor(architecture: str, device: str) -> tuple[SamPredictor, np.ndarray]:
    sam = reference_sam(architecture).to(device)
    return SamPredictor(sam), embedded_image(sam.image_encoder.img_size)


def embed(architecture: str, repeats: int, precision: str = "fp32", device: str = "cpu") -> Answer:
    """Measure `SamPredictor.set_image`."""
    predictor, image = _predictor(architecture, device)
    with _precision(precision, device):
        times = seconds(lambda: predictor.set_image(image), repeats, device)
    return {"seconds": times, "gigabytes": gigabytes(device)}


def prompt(architecture: str, repeats: int, precision: str = "fp32", device: str = "cpu") -> Answer:
    """Measure `SamPredictor.predict` with one point."""
    predictor, image = _predictor(architecture, device)
    point, label = np.array([[len(image) / 2, len(image) / 2]]), np.array([1])
    with _precision(precision, device):
        predictor.set_image(image)
        times = seconds(
            lambda: predictor.predict(point, label, multimask_output=True), repeats, device
        )
    return {"seconds": times, "gigabytes": gigabytes(device)}


def prompts(architecture: str, repeats: int, objects: int) -> Answer:
    """Measure `SamPredictor.predict_torch` of boxes with a point each, one mask of each."""
    predictor, image = _predictor(architecture, "cpu")
    predictor.set_image(image)
    given = squares(objects, len(image))
    points = torch.tensor([[[col + side / 2, row + side / 2]] for row, col, side in given])
    boxes = torch.tensor([[col, row, col + side, row + side] for row, col, side in given])
    labels = torch.ones(objects, 1)
    times = seconds(
        lambda: predictor.predict_torch(points, labels, boxes, multimask_output=False), repeats
    )
    return {"seconds": times, "gigabytes": gigabytes()}


def throughput(
    architecture: str,
    repeats: int,
    batch: int,
    precision: str = "fp32",
    device: str = "cpu",
) -> Answer:
    """Measure the image encoder on batches that lie on the device already."""
    encoder = reference_sam(architecture).to(device).image_encoder
    x = torch.randn(batch, 3, encoder.img_size, encoder.img_size, device=device)
    with _precision(precision, device), torch.inference_mode():
        times = seconds(lambda: encoder(x), repeats, device)
    return {"seconds": [t / batch for t in times], "gigabytes": gigabytes(device)}


def operations(architecture: str) -> Answer:
    """Count the floating-point operations of embedding one image, without doing them."""
    with torch.device("meta"):
        encoder = reference_sam(architecture).image_encoder
        x = torch.empty(1, 3, encoder.img_size, encoder.img_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(x)
    return {"operations": counter.get_total_flops()}


WORKS: Works = {
    "embed": embed,
    "prompt": prompt,
    "prompts": prompts,
    "throughput": throughput,
    "operations": operations,
}

if __name__ == "__main__":
    main(WORKS)
