"""What this project takes: embedding, prompts, training, reload, adapter files, and profiles."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from time import perf_counter, sleep
from typing import Any
from unittest.mock import patch

import psutil
import reload_fraction
import torch
from _measure import Answer, Works, gigabytes, main, seconds, synchronise
from _own_model import model_side, own_model
from _reference import reference_sam
from _scene import embedded_image, squares, training_scene
from torch.profiler import ProfilerActivity, profile

from napari_peftsam.app.child import Child, TrainingProcess
from napari_peftsam.app.finetuning import TrainingJob
from napari_peftsam.embeddings import encode_one
from napari_peftsam.models import (
    SamModel,
    encode_tensor,
    to_model_input,
)
from napari_peftsam.models.memory import MemoryPeak, measure_peak
from napari_peftsam.peft import (
    LoraConfig,
    MethodConfig,
    capture,
    inject,
    parse_method_config,
    save_adapter,
)
from napari_peftsam.segmentation import Crop, Predictor
from napari_peftsam.training import (
    AnnotatedPlane,
    TrainingConfig,
    TrainingStep,
    finetune,
    memory,
)
from napari_peftsam.types import Box, Point, Prompts

Options = dict[str, Any]
LORA: Options = {"method": "lora", "rank": 4}


def embed(
    architecture: str,
    repeats: int,
    precision: str,
    device: str = "cpu",
    side: int = 0,
    frame: int | None = None,
) -> Answer:
    """Measure `encode_one` on an image of the frame's size, or of another.

    At a smaller frame the image is as large as at the model's own.
    """
    model = own_model(architecture, precision, device, frame)
    image = embedded_image(side or model_side(architecture))
    times = seconds(lambda: encode_one(model, image), repeats, device)
    return {"seconds": times, "gigabytes": gigabytes(device)}


def prompt(
    architecture: str,
    repeats: int,
    precision: str = "auto",
    device: str = "cpu",
    side: int | None = None,
    objects: int = 1,
) -> Answer:
    """Measure `Predictor.predict` with one point, or `predict_many` of several objects."""
    model = own_model(architecture, precision, device)
    image = embedded_image(side or model.image_size)
    embedding = encode_one(model, image)
    predictor, (height, width) = Predictor(model), image.shape[:2]
    points = [Point(height * (i + 0.5) / objects, width / 2) for i in range(objects)]
    clicks = [Prompts((point,)) for point in points]

    def work() -> object:
        if objects == 1:
            return predictor.predict(embedding, clicks[0])
        return predictor.predict_many(embedding, clicks, candidates=1)

    return {"seconds": seconds(work, repeats, device), "gigabytes": gigabytes(device)}


def prompts(
    architecture: str, repeats: int, objects: int, precision: str = "auto", crop: bool = False
) -> Answer:
    """Measure `Predictor.predict_many` of boxes with a point each, exactly or cropped."""
    model = own_model(architecture, precision)
    image = embedded_image(model.image_size)
    embedding = encode_one(model, image)
    predictor = Predictor(model)
    given = [
        Prompts((Point(row + side / 2, col + side / 2),), Box(row, col, row + side, col + side))
        for row, col, side in squares(objects, model.image_size)
    ]
    options = {"crop": Crop()} if crop else {}
    return {
        "seconds": seconds(
            lambda: predictor.predict_many(embedding, given, candidates=1, **options), repeats
        ),
        "gigabytes": gigabytes(),
    }


def start(source: str) -> Answer:
    """Measure a training in a process that waits for it, from the job to its first step."""
    image, labels = training_scene()
    job = TrainingJob(
        source, "cpu", (AnnotatedPlane("plane", "image", image, labels),), TrainingConfig(steps=1)
    )
    child = Child.start()
    imports = -1.0
    while (spent := _cpu_seconds(child)) > imports:
        imports = spent
        sleep(3.0)
    began, events = perf_counter(), TrainingProcess(lambda: job, child).events()
    next(event for event in events if isinstance(event, TrainingStep))
    took, spent = perf_counter() - began, _cpu_seconds(child)
    events.close()
    return {"seconds": [took], "cpu_seconds": spent - imports, "imports_cpu_seconds": imports}


def _cpu_seconds(child: Child) -> float:
    times = psutil.Process(child.process.pid).cpu_times()
    return times.user + times.system


@torch.inference_mode()
def throughput(
    architecture: str, repeats: int, batch: int, precision: str = "auto", device: str = "cpu"
) -> Answer:
    """Measure the image encoder on batches that lie on the device already."""
    model = own_model(architecture, precision, device)
    x = torch.randn(batch, 3, model.image_size, model.image_size, device=device)
    with model.autocast():
        times = seconds(lambda: encode_tensor(model.sam, x), repeats, device)
    return {"seconds": [t / batch for t in times], "gigabytes": gigabytes(device)}


@torch.inference_mode()
def agreement(architecture: str, device: str = "cpu") -> Answer:
    """Return how far the embedding is from that of `segment_anything`, as a share of its norm.

    In fp32, and in the precision that suits the hardware.
    """
    reference = reference_sam(architecture).to(device)
    errors = {}
    for precision in dict.fromkeys(("fp32", own_model(architecture, device=device).precision)):
        model = own_model(architecture, precision, device)
        model.sam.load_state_dict(reference.state_dict())
        x = to_model_input(embedded_image(model.image_size), model)
        with model.autocast():
            found = encode_tensor(model.sam, x).float()
        expected = reference.image_encoder(x)
        errors[precision] = float((found - expected).norm() / expected.norm())
    return {"errors": errors}


def training(
    architecture: str,
    repeats: int,
    method: Options,
    precision: str = "auto",
    device: str = "cpu",
    frame: int | None = None,
    **scene: int,
) -> Answer:
    """Measure finetuning steps, from one to the next as their events come."""
    model = own_model(architecture, precision, device, frame)
    before = gigabytes(device)
    times, began, peaks = [], 0.0, [before]

    def noted(where: torch.device) -> AbstractContextManager[MemoryPeak]:
        peaks.append(gigabytes(device))  # the run's trial makes the system forget it
        return measure_peak(where)

    with patch.object(memory, "measure_peak", noted):
        for _ in _steps(model, method, repeats + 1, **scene):
            synchronise(device)
            now = perf_counter()
            times.append(now - began)
            began = now
    peaks.append(gigabytes(device))
    return {"seconds": times[1:], "gigabytes": max(peaks), "gigabytes_before": before}


def _steps(
    model: SamModel,
    method: Options,
    steps: int,
    objects: int = 5,
    rounds: int = 8,
    images: int = 1,
    views: int = 2,
) -> Iterator[TrainingStep]:
    """Train on the scene: 30 objects of it are learned (always five to a step), 6 held out.

    With several images, one more is held out instead. Each view of an image fills its part of
    the cache when it first comes; few of them, so that most steps find it filled.
    """
    planes = []
    for number in range(images if images == 1 else images + 1):
        image, labels = training_scene(seed=number)
        planes.append(AnnotatedPlane(f"plane {number}", f"image {number}", image, labels))
    config = TrainingConfig(
        method=_method(method), steps=steps, objects_per_step=objects, rounds=rounds, views=views,
        held_out=1 / 6 if images == 1 else 1 / (images + 1), validations=1,
    )  # fmt: skip
    for event in finetune(model, planes, config):
        if isinstance(event, TrainingStep):
            yield event


def _method(options: Options) -> MethodConfig:
    return parse_method_config(options)


def reload(architecture: str, repeats: int, precision: str = "auto", device: str = "cpu") -> Answer:
    """Measure what is left of an embedding after late-25 % finetuning, as a share of all of it."""
    found = reload_fraction.measure(own_model(architecture, precision, device), "late-25%", repeats)
    return {
        "seconds": [found["reload_s"]],
        "whole": found["full_s"],
        "fraction": found["reload_fraction"],
    }


def adapter(architecture: str, rank: int = 4) -> Answer:
    """Return the size of an adapter file without decoder and prompt encoder."""
    model = own_model(architecture)
    config = LoraConfig(rank=rank, tune_mask_decoder=False, tune_prompt_encoder=False)
    with tempfile.TemporaryDirectory() as folder, inject(model, config) as injection:
        path = Path(folder) / "adapter.safetensors"
        save_adapter(capture(injection), path)
        return {"megabytes": path.stat().st_size / 1e6}


def profiled(
    architecture: str, work: str, rows: int = 10, device: str = "cpu", **scene: int
) -> Answer:
    """Return the operators that take the most time of their own, and their share of all."""
    model = own_model(architecture, device=device)
    image = embedded_image(model.image_size)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    if work == "training":
        steps = _steps(model, LORA, 2, **scene)
        next(steps)
        with profile(activities=activities) as found:
            next(steps)
        steps.close()
    else:
        embedding = encode_one(model, image)
        predictor, click = Predictor(model), Prompts((Point(len(image) / 2, len(image) / 2),))
        predictor.predict(embedding, click)
        with profile(activities=activities) as found:
            if work == "embed":
                encode_one(model, image)
            else:
                predictor.predict(embedding, click)
            synchronise(device)
    return {"operators": _operators(found, rows, device)}


def _operators(found: profile, rows: int, device: str) -> list[dict[str, Any]]:
    kind = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    averages = found.key_averages()
    total = sum(getattr(row, kind) for row in averages)
    ranked = sorted(averages, key=lambda row: getattr(row, kind), reverse=True)
    return [
        {
            "name": row.key,
            "share": getattr(row, kind) / total,
            "seconds": getattr(row, kind) / 1e6,
            "calls": row.count,
        }
        for row in ranked[:rows]
    ]


WORKS: Works = {
    "embed": embed,
    "prompt": prompt,
    "prompts": prompts,
    "start": start,
    "throughput": throughput,
    "agreement": agreement,
    "training": training,
    "reload": reload,
    "adapter": adapter,
    "profile": profiled,
}

if __name__ == "__main__":
    main(WORKS)
