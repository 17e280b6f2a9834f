"""Checkpoints go to micro-sam and come from it, and mean the same there.

micro-sam cannot share an environment with this package: both bring a `segment_anything`,
from two distributions. ``make interoperability`` sets up one of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from torch import Tensor

from napari_peftsam.app.exchange import export_model_file
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import (
    ModelEntry,
    UnetrDecoder,
    build,
    decoder_state_dict,
    encode_tensor,
    to_model_input,
)
from napari_peftsam.peft import MethodConfig
from tests.interoperability._cases import (
    CONFIGS,
    adapt,
    assert_equal,
    assert_moved,
    embedding,
    image,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("micro_sam", reason="micro-sam is not installed: `make interoperability`")
    from micro_sam import training
    from micro_sam.instance_segmentation import DecoderAdapter, get_unetr
    from micro_sam.util import export_custom_sam_model, get_sam_model, precompute_image_embeddings
    from torch_em.model import UNETR
    from torch_em.trainer import DefaultTrainer

pytestmark = [
    pytest.mark.slow,
    # Warnings of micro-sam, and of what it rests on, are not ours.
    pytest.mark.filterwarnings("default"),
]


def load_there(path: Path, **options: object) -> SimpleNamespace:
    """Return network, predictor and decoder's state as micro-sam finds them in a file."""
    predictor, sam, state = get_sam_model(
        model_type="vit_b",
        device="cpu",
        checkpoint_path=path,
        return_sam=True,
        return_state=True,
        **options,
    )
    return SimpleNamespace(predictor=predictor, sam=sam, decoder=state.get("decoder_state"))


def decoder_of(path: Path) -> dict[str, Tensor]:
    return decoder_state_dict(ModelEntry("theirs", "", "vit_b", 0, "", "", file=path))


# --- what micro-sam writes ---------------------------------------------------------------


def save_at_once(trainer: DefaultTrainer, iterations: int, **_: object) -> None:
    """Stand for `DefaultTrainer.fit`: all of it but the training, which takes minutes."""
    trainer._initialize(iterations, load_from_checkpoint=None)
    trainer.save_checkpoint("best", current_metric=0.5, best_metric=0.25)


def loader(folder: Path, with_decoder: bool) -> torch.utils.data.DataLoader:
    """Return micro-sam's usual loader, which its checkpoints carry along; 16 discs."""
    rows, cols = np.mgrid[:256, :256]
    discs = (rows % 64 - 32) ** 2 + (cols % 64 - 32) ** 2 < 20**2
    labels = np.where(discs, 1 + rows // 64 * 4 + cols // 64, 0)
    tifffile.imwrite(folder / "image.tif", (discs * 200).astype(np.uint8))
    tifffile.imwrite(folder / "labels.tif", labels.astype(np.uint16))
    return training.default_sam_loader(
        raw_paths=[str(folder / "image.tif")],
        raw_key=None,
        label_paths=[str(folder / "labels.tif")],
        label_key=None,
        patch_shape=(256, 256),
        with_segmentation_decoder=with_decoder,
        batch_size=1,
        n_samples=1,
        num_workers=0,
    )


def train(
    checkpoint: Path,
    folder: Path,
    function: Callable[..., None] = training.train_sam,
    with_decoder: bool = True,
    **options: object,
) -> Path:
    """Run a training of micro-sam without its iterations; return the checkpoint it leaves."""
    samples = loader(folder, with_decoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefaultTrainer, "fit", save_at_once)
        function(
            name="cells",
            model_type="vit_b",
            train_loader=samples,
            val_loader=samples,
            n_iterations=1,
            checkpoint_path=checkpoint,
            device="cpu",
            save_root=folder,
            **options,
        )
    return folder / "checkpoints" / "cells" / "best.pt"


def trained(checkpoint: Path, folder: Path) -> Path:
    return train(checkpoint, folder, with_decoder=False, with_segmentation_decoder=False)


def trained_with_decoder(checkpoint: Path, folder: Path) -> Path:
    return train(checkpoint, folder)


def exported(checkpoint: Path, folder: Path, with_decoder: bool = False) -> Path:
    path = folder / "exported.pth"
    export_custom_sam_model(train(checkpoint, folder), "vit_b", path, with_decoder)
    return path


def exported_with_decoder(checkpoint: Path, folder: Path) -> Path:
    return exported(checkpoint, folder, with_decoder=True)


def exported_segmentation(checkpoint: Path, folder: Path) -> Path:
    """Only encoder and decoder were trained; the export adds the rest of the model."""
    path = folder / "exported.pth"
    network = train(checkpoint, folder, training.train_instance_segmentation)
    training.export_instance_segmentation_model(network, path, "vit_b", checkpoint)
    return path


FORMATS = {
    "trained": trained,
    "trained with decoder": trained_with_decoder,
    "exported": exported,
    "exported with decoder": exported_with_decoder,
    "exported segmentation": exported_segmentation,
}


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS.keys())
def test_its_checkpoint_loads_here(
    write: Callable[[Path, Path], Path], checkpoint: Path, tmp_path: Path
) -> None:
    path = write(checkpoint, tmp_path)
    model, theirs = build(path), load_there(path)
    assert model.weights_hash == build(checkpoint).weights_hash
    assert_equal(embedding(model.sam), embedding(theirs.sam))
    if theirs.decoder is None:
        with pytest.raises(ConfigurationError, match="no decoder"):
            decoder_of(path)
    else:
        assert dict(theirs.decoder).keys() == decoder_of(path).keys()
        torch.testing.assert_close(decoder_of(path), dict(theirs.decoder), rtol=0, atol=0)
        get_unetr(model.sam.image_encoder, decoder_of(path), "cpu")  # refuses what misfits


LORA = {"q and v": ["q", "v"], "everything": ["q", "k", "v", "mlp"]}


def train_lora(checkpoint: Path, folder: Path, matrices: list[str]) -> tuple[Path, SimpleNamespace]:
    """Return a checkpoint with LoRA layers that have an effect, and micro-sam's own network."""
    kwargs = {"rank": 4, "update_matrices": matrices, "attention_layers_to_update": [0, 5, 11]}
    path = train(checkpoint, folder, peft_kwargs=kwargs)
    content = torch.load(path, weights_only=False)
    generator = torch.Generator().manual_seed(3)
    for name, tensor in content["model_state"].items():
        if "_linear_" in name:  # they start without effect
            tensor.normal_(std=0.05, generator=generator)
        elif "mask_decoder" in name and tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.02)
    torch.save(content, path)
    return path, load_there(path, peft_kwargs=kwargs)


@pytest.mark.parametrize("matrices", LORA.values(), ids=LORA.keys())
def test_its_lora_checkpoint_loads_here(
    matrices: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    path, theirs = train_lora(checkpoint, tmp_path, matrices)
    assert_equal(embedding(build(path).sam), embedding(theirs.sam))
    assert_moved(embedding(theirs.sam), embedding(build(checkpoint).sam))


# --- what we write -----------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_merged_export_loads_there(
    config: MethodConfig, checkpoint: Path, tmp_path: Path
) -> None:
    adapter, merged = tmp_path / "adapter.safetensors", tmp_path / "merged.pth"
    adapted = adapt(checkpoint, config, adapter)
    export_model_file(checkpoint, adapter, merged)
    theirs = load_there(merged)
    assert_equal(embedding(theirs.sam), embedding(adapted.sam))
    assert_moved(embedding(theirs.sam), embedding(build(checkpoint).sam))


def test_its_embedding_of_an_image_is_ours(checkpoint: Path) -> None:
    model, theirs = build(checkpoint), load_there(checkpoint)
    found = precompute_image_embeddings(theirs.predictor, image(), ndim=2, verbose=False)
    with torch.inference_mode():
        ours = encode_tensor(model.sam, to_model_input(image(), model))
    assert_equal(torch.as_tensor(found["features"]), ours)


@pytest.mark.parametrize("transposed", [False, True], ids=["bilinear", "transposed convolutions"])
def test_the_decoder_is_theirs(transposed: bool) -> None:
    encoder = torch.nn.Module()
    encoder.img_size, encoder.in_chans, encoder.embed_dim = 1024, 3, 256  # type: ignore[assignment]
    there = UNETR(
        encoder=encoder, out_channels=3, use_sam_stats=True, final_activation="Sigmoid",
        use_skip_connection=False, embed_dim=256, use_conv_transpose=transposed,
    )  # fmt: skip
    for part in there.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    state = {k: v for k, v in there.eval().state_dict().items() if not k.startswith("encoder")}
    here = UnetrDecoder.from_state(state, "decoder.pt")
    features = torch.randn(1, 256, 8, 8)
    with torch.inference_mode():
        expected = DecoderAdapter(there)._forward_impl(features)
        assert torch.equal(here.distances(features).sigmoid(), expected)
