"""What micro-sam takes for the same work; run by the Python of an environment that has it."""

from __future__ import annotations

import random
import tempfile
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch_em
from _measure import Answer, Works, gigabytes, main, synchronise
from _scene import training_scene
from micro_sam.training.sam_trainer import SamTrainer
from micro_sam.training.util import ConvertToSamInputs, get_trainable_sam_model
from micro_sam.util import export_custom_sam_model
from segment_anything import sam_model_registry


def trainable(architecture: str, rank: int, device: str, folder: Path) -> torch.nn.Module:
    """Return a model with LoRA on q and v of all blocks; decoder and prompt encoder train, too."""
    checkpoint = folder / "random.pth"
    torch.save(sam_model_registry[architecture]().state_dict(), checkpoint)
    return get_trainable_sam_model(
        architecture, device=device, checkpoint_path=checkpoint, peft_kwargs={"rank": rank}
    )


def training(
    architecture: str,
    repeats: int,
    objects: int = 5,
    rounds: int = 8,
    rank: int = 4,
    device: str = "cpu",
    precision: str = "fp32",
) -> Answer:
    """Measure iterations of its LoRA training on one image."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - micro-sam draws from it
    with tempfile.TemporaryDirectory() as folder:
        model = trainable(architecture, rank, device, Path(folder))
    before = gigabytes(device)
    image, labels = training_scene()
    x = torch.from_numpy(image)[None, None].repeat(1, 3, 1, 1).float()
    y = torch.from_numpy(labels)[None, None].float()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-5)
    trainer = SamTrainer(
        convert_inputs=ConvertToSamInputs(transform=model.transform, box_distortion_factor=0.025),
        n_sub_iteration=rounds, n_objects_per_batch=objects, mse_loss=torch.nn.MSELoss(),
        mask_prob=0.5, name="benchmark", train_loader=[(x, y)], val_loader=[(x, y)], model=model,
        optimizer=optimiser, device=device, mixed_precision=False, logger=None,
    )  # fmt: skip
    trainer.max_iteration = repeats + 1
    model.train()
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    scaler = torch.GradScaler(device, enabled=precision == "fp16")
    times = []
    for iteration in range(repeats + 1):
        synchronise(device)
        began = perf_counter()
        trainer._iteration = iteration
        optimiser.zero_grad()
        with torch.autocast(device, half) if half else nullcontext():
            loss = trainer._interactive_train_iteration(x, y)[0]
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        synchronise(device)
        times.append(perf_counter() - began)
    return {
        "seconds": times[1:],
        "gigabytes": gigabytes(device),
        "gigabytes_before": before,
        "trainable": sum(p.numel() for p in parameters),
        "versions": {"micro_sam": version("micro-sam"), "torch_em": torch_em.__version__},
    }


def adapter(architecture: str, rank: int = 4) -> Answer:
    """Return the size of the file in which a LoRA-finetuned model is exported."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = trainable(architecture, rank, "cpu", folder)
        state = {f"sam.{key}": value for key, value in model.sam.state_dict().items()}
        torch.save({"model_state": state}, folder / "best.pt")
        export_custom_sam_model(folder / "best.pt", architecture, folder / "exported.pth")
        return {"megabytes": (folder / "exported.pth").stat().st_size / 1e6}


WORKS: Works = {"training": training, "adapter": adapter}

if __name__ == "__main__":
    main(WORKS)
