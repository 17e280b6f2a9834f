"""The whole loop without a viewer: prompt, accept, finetune, reload, export."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from napari_peftsam.app.app import predict_pending
from napari_peftsam.app.exchange import export_image, export_model
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.document import AddPoint, Discard, ImportLabels, PlaneKey, SetBox
from napari_peftsam.embeddings import Encoded, EncodeProgress
from napari_peftsam.errors import (
    AdapterMismatchError,
    CheckpointError,
    ConfigurationError,
    InputFileError,
)
from napari_peftsam.models import build, build_tiny
from napari_peftsam.peft import FrozenEncoderConfig, LoraConfig, capture, inject
from napari_peftsam.training import (
    Incumbent,
    TrainingConfig,
    TrainingReport,
    TrainingStep,
)
from napari_peftsam.types import Box, Point, Prompts
from tests.models._mobile_sam import checkpoint
from tests.peft._cases import perturb
from tests.training._world import finish, judged, make_plane
from tests.workspace._steps import accept, embedding_of, exported, training

PLANE = PlaneKey("discs")
CONFIG = TrainingConfig(
    method=LoraConfig(rank=2), steps=4, rounds=1, validations=2, learning_rate=1e-3
)


def _annotate(workspace: Workspace) -> None:
    """Bring in the true objects, and make one more with a prompt, as a user would."""
    plane = make_plane("discs")
    workspace.document.do(ImportLabels("discs", plane.labels))


def _finish(
    workspace: Workspace, iou_before: float, iou_after: float, config: TrainingConfig = CONFIG
) -> TrainingReport:
    """Finetune for real, then judge it as the caller wants, and make sure it changes masks."""
    _, finished = finish(training(workspace, config))
    tensors = {name: tensor + 0.05 for name, tensor in finished.adapter.tensors.items()}
    return replace(
        finished,
        adapter=replace(finished.adapter, tensors=tensors),
        iou_before=iou_before,
        iou_after=iou_after,
        verdict=judged(iou_before, iou_after),
    )


def test_the_thinnest_thread_through_every_floor(workspace: Workspace, tmp_path: Path) -> None:
    document = workspace.document
    document.do(AddPoint(PLANE, Point(12, 12)))
    predict_pending(workspace)
    label = accept(workspace)
    record = document.records("discs")[-1]
    assert (record.label, record.model, record.adapter) == (label, "tiny", "base")
    _annotate(workspace)

    before = document.labels(PLANE).copy()
    entry = workspace.promote(_finish(workspace, 0.5, 0.6))
    assert entry is not None
    assert entry.name == "v1"
    assert workspace.live.name == entry.name
    np.testing.assert_array_equal(document.labels(PLANE), before)

    document.do(AddPoint(PLANE, Point(34, 34)))
    assert len(predict_pending(workspace)) == 3
    path = export_image(workspace.document, "discs", tmp_path / "objects.tif")
    np.testing.assert_array_equal(tifffile.imread(path), before)


def test_an_adapter_that_is_not_better_does_not_go_live(workspace: Workspace) -> None:
    _annotate(workspace)
    assert workspace.promote(_finish(workspace, 0.6, 0.6)) is None
    assert [e.name for e in workspace.adapters.entries] == ["base"]
    assert workspace.live.name == "base"


def test_prompts_and_history_survive_the_reload_and_are_answered_anew(
    workspace: Workspace,
) -> None:
    _annotate(workspace)
    document = workspace.document
    document.do(AddPoint(PLANE, Point(34, 34)))
    old = predict_pending(workspace)
    steps = document.steps
    workspace.promote(_finish(workspace, 0.1, 0.9))
    assert document.steps == steps
    assert document.current is not None
    assert document.current.prompts.points == (Point(34, 34),)
    assert embedding_of(workspace, PLANE) is None
    new = predict_pending(workspace)
    assert not np.array_equal(new.logits, old.logits)


def test_embeddings_outlive_an_adapter_of_the_decoder(workspace: Workspace) -> None:
    _annotate(workspace)
    document = workspace.document
    document.do(AddPoint(PLANE, Point(34, 34)))
    old = predict_pending(workspace)
    embedding = embedding_of(workspace, PLANE)
    assert embedding is not None
    before = workspace.engine.version(embedding)
    config = CONFIG.model_copy(update={"method": FrozenEncoderConfig(decoder_lora_rank=2)})
    workspace.promote(_finish(workspace, 0.1, 0.9, config))
    still = embedding_of(workspace, PLANE)
    assert still is not None
    assert still.whole is embedding.whole
    after = workspace.engine.version(embedding)
    assert after != before  # yet its answers are others
    engine, prompts = workspace.engine, Prompts(points=(Point(34, 34),))
    for stale in (
        engine.predict(embedding, prompts, adapter=before.decoder),
        finish(engine.predict_many_steps(embedding, [prompts], adapter=before.decoder))[1],
    ):
        assert stale is None
    assert engine.predict(embedding, prompts, adapter=after.decoder) is not None
    assert not np.array_equal(predict_pending(workspace).logits, old.logits)


def test_a_model_comes_back_with_its_adapter_as_weak_as_it_was(
    workspace: Workspace, checkpoint: Path
) -> None:
    _annotate(workspace)
    workspace.promote(_finish(workspace, 0.5, 0.6))
    workspace.activate("v1", 0.25)
    address = workspace.engine.live.decoder
    job = workspace.prepare_training(CONFIG)()
    assert job.incumbent == Incumbent(workspace.live.adapter, 0.25)
    workspace.load_model(checkpoint, "cpu")
    assert (workspace.live.name, workspace.engine.live.decoder) == ("v1", address)


def test_a_model_whose_adapter_cannot_be_used_does_not_become_live(
    workspace: Workspace, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _annotate(workspace)
    workspace.promote(_finish(workspace, 0.5, 0.6))
    engine = workspace.engine
    monkeypatch.setattr(LoraConfig, "obstacle", staticmethod(lambda device: "needs another device"))
    with pytest.raises(ConfigurationError, match="needs another device"):
        workspace.load_model(checkpoint, "cpu")
    assert workspace.engine is engine
    assert workspace.live.name == "v1"


def test_a_weakened_adapter_is_exported_and_recorded_as_such(
    workspace: Workspace, tmp_path: Path
) -> None:
    _annotate(workspace)
    workspace.promote(_finish(workspace, 0.5, 0.6))
    workspace.document.do(AddPoint(PLANE, Point(34, 34)))
    full = predict_pending(workspace)
    workspace.document.do(Discard())
    workspace.activate("v1", 0.5)
    document = workspace.document
    document.do(AddPoint(PLANE, Point(34, 34)))
    half = predict_pending(workspace)
    accept(workspace)
    assert document.records("discs")[-1].adapter == "v1@0.5"
    merged = Workspace()
    merged.load_model(exported(workspace, tmp_path / "half.pth"), "cpu")
    merged.document.add_image("discs", make_plane("discs").pixels)
    merged.document.do(AddPoint(PLANE, Point(34, 34)))
    error = np.abs(predict_pending(merged).logits - half.logits).max()  # embeddings are rounded
    assert error < 0.05 * np.abs(full.logits - half.logits).max()


def test_switching_back_restores_the_base_exactly_and_from_memory(workspace: Workspace) -> None:
    _annotate(workspace)
    document = workspace.document
    document.do(SetBox(PLANE, Box(4, 4, 20, 20)))
    original = predict_pending(workspace)
    workspace.promote(_finish(workspace, 0.1, 0.9))
    predict_pending(workspace)
    workspace.activate("base")
    assert embedding_of(workspace, PLANE) is not None  # still known, nothing to encode
    np.testing.assert_array_equal(predict_pending(workspace).logits, original.logits)


def test_the_live_model_answers_as_before_while_training_runs(workspace: Workspace) -> None:
    _annotate(workspace)
    list(workspace.embed(PLANE))
    embedding, box = embedding_of(workspace, PLANE), Prompts(box=Box(4, 4, 20, 20))
    original = workspace.engine.predict(embedding, box).logits
    for event in training(workspace, CONFIG):
        if isinstance(event, TrainingStep):
            again = workspace.engine.predict(embedding, box)
            np.testing.assert_array_equal(again.logits, original)
    np.testing.assert_array_equal(workspace.engine.predict(embedding, box).logits, original)


def test_an_answer_under_a_former_adapter_is_not_given(workspace: Workspace) -> None:
    _annotate(workspace)
    document = workspace.document
    document.do(SetBox(PLANE, Box(4, 4, 20, 20)))
    predict_pending(workspace)
    stale = embedding_of(workspace, PLANE)
    assert stale is not None
    assert document.current is not None
    workspace.promote(_finish(workspace, 0.1, 0.9))
    assert workspace.engine.predict(stale, document.current.prompts) is None


def test_an_encoding_is_given_up_when_the_adapter_is_swapped(workspace: Workspace) -> None:
    _annotate(workspace)
    finished = _finish(workspace, 0.1, 0.9)
    encoding = workspace.embed(PLANE)
    next(encoding)
    next(encoding)
    workspace.promote(finished)
    assert not any(isinstance(event, Encoded) for event in encoding)
    assert embedding_of(workspace, PLANE) is None


def test_nothing_but_the_network_is_used_under_the_lock(workspace: Workspace) -> None:
    """Else a prompt would wait for hashing, normalising and the disk."""
    engine = workspace.engine
    free: list[bool] = []

    class Store:
        def get(self, key: object) -> None:
            self.put(key)

        def put(self, embedding: object) -> None:
            def take() -> None:
                with engine._turns.urgent():
                    free.append(True)

            other = threading.Thread(target=take)
            other.start()
            other.join(20)

    engine.store = Store()  # type: ignore[assignment]
    assert any(isinstance(event, Encoded) for event in workspace.embed(PLANE))
    assert free == [True, True]


def test_logits_of_other_weights_are_not_refined(workspace: Workspace, tmp_path: Path) -> None:
    document = workspace.document
    document.do(AddPoint(PLANE, Point(12, 12)))
    predict_pending(workspace)
    document.do(AddPoint(PLANE, Point(14, 12)))
    predict_pending(workspace)
    workspace.load_model("builtin", "cpu")  # its logits have another size
    assert len(predict_pending(workspace)) == 3
    accept(workspace)
    assert document.records("discs")[-1].model == "builtin"


def test_a_model_comes_back_with_its_adapters(workspace: Workspace, tmp_path: Path) -> None:
    _annotate(workspace)
    workspace.promote(_finish(workspace, 0.1, 0.9))
    source, digest = workspace.source, workspace.engine.live.decoder
    workspace.load_model("builtin", "cpu")
    assert [entry.name for entry in workspace.adapters.entries] == ["base"]
    workspace.load_model(source, "cpu")
    assert [entry.name for entry in workspace.adapters.entries] == ["base", "v1"]
    assert workspace.engine.live.decoder == digest


def test_training_goes_on_from_the_live_adapter_of_the_same_method(workspace: Workspace) -> None:
    _annotate(workspace)
    workspace.promote(_finish(workspace, 0.1, 0.9))
    live = workspace.live.adapter
    same = workspace.prepare_training(CONFIG)()
    other = workspace.prepare_training(TrainingConfig(method=FrozenEncoderConfig(), steps=1))()
    assert same.start is live
    assert same.incumbent == Incumbent(live)
    assert other.start is None
    assert other.incumbent == Incumbent(live)


def test_the_users_own_prompts_are_training_data(workspace: Workspace) -> None:
    document = workspace.document
    document.do(AddPoint(PLANE, Point(12, 12)))
    predict_pending(workspace)
    label = accept(workspace)
    (plane,) = workspace.prepare_training(TrainingConfig(steps=1))().planes
    assert plane.prompts[label].points == (Point(12, 12),)
    assert plane.labels is not document.labels(PLANE)


def test_adapters_are_saved_loaded_and_exported(workspace: Workspace, tmp_path: Path) -> None:
    _annotate(workspace)
    workspace.promote(_finish(workspace, 0.1, 0.9))
    path = tmp_path / "mine.safetensors"
    workspace.adapters["v1"].save(path)
    again = workspace.load_adapter(path)
    assert again.name == "v1"  # the same content is the same entry
    merged = exported(workspace, tmp_path / "merged.pth")

    fresh = Workspace()
    fresh.load_model(merged, "cpu")
    fresh.document.add_image("discs", make_plane("discs").pixels)
    for one in (workspace, fresh):
        one.document.do(SetBox(PLANE, Box(4, 4, 20, 20)))
    np.testing.assert_allclose(
        predict_pending(fresh).logits, predict_pending(workspace).logits, rtol=0.05, atol=0.05
    )


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
def test_an_export_of_the_built_in_model_keeps_its_dense_head(
    adapted: bool, tmp_path: Path
) -> None:
    model = build("builtin")
    head = model.dense_head
    assert head is not None
    adapter = None
    if adapted:
        with inject(model, LoraConfig(rank=2)) as injection:
            perturb(injection.trainable_parameters(), 0.02)
            adapter = capture(injection)
    again = build(export_model(model, adapter, tmp_path / "merged.pth"))
    assert (again.weights_hash == model.weights_hash) is not adapted
    assert again.dense_head is not None
    found = again.dense_head.state_dict()
    assert all(torch.equal(found[name], value) for name, value in head.state_dict().items())


@pytest.mark.usefixtures("small_vit_t")
def test_the_loop_with_mobile_sam(tmp_path: Path) -> None:
    path, state = tmp_path / "mobile_sam.pt", checkpoint()
    torch.save(state, path)
    workspace = Workspace(store=tmp_path / "embeddings")
    workspace.load_model(path, "cpu")
    workspace.document.add_image("discs", make_plane("discs").pixels)
    workspace.document.do(AddPoint(PLANE, Point(12, 12)))
    predict_pending(workspace)
    accept(workspace)
    _annotate(workspace)
    with pytest.raises(ConfigurationError, match="is not available for vit_t"):
        next(training(workspace, CONFIG))
    frozen = CONFIG.model_copy(update={"method": FrozenEncoderConfig()})
    _, finished = finish(training(workspace, frozen))
    workspace.promote(replace(finished, verdict=judged(0.1, 0.9)))
    merged = torch.load(exported(workspace, tmp_path / "merged.pth"), weights_only=True)
    assert merged.keys() == state.keys()
    encoder = [name for name in state if name.startswith("image_encoder.")]
    assert all(torch.equal(merged[name], state[name]) for name in encoder)

    fresh = Workspace()
    fresh.load_model(tmp_path / "merged.pth", "cpu")
    fresh.document.add_image("discs", make_plane("discs").pixels)
    for one in (workspace, fresh):
        one.document.do(SetBox(PLANE, Box(4, 4, 20, 20)))
    np.testing.assert_allclose(
        predict_pending(fresh).logits, predict_pending(workspace).logits, rtol=0.05, atol=0.05
    )


def test_the_base_has_no_adapter_to_save(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no adapter to save"):
        workspace.adapters["base"].save(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("missing", InputFileError),
        ("truncated", (AdapterMismatchError, InputFileError)),
        ("other base", AdapterMismatchError),
    ],
)
def test_a_bad_adapter_file_changes_nothing(
    kind: str, error: type[Exception], workspace: Workspace, tmp_path: Path
) -> None:
    _annotate(workspace)
    workspace.promote(_finish(workspace, 0.1, 0.9))
    path = tmp_path / "bad.safetensors"
    if kind == "truncated":
        workspace.adapters["v1"].save(path)
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "other base":
        other = tmp_path / "other.pth"
        torch.save(build_tiny(seed=5).sam.state_dict(), other)
        stranger = Workspace()
        stranger.load_model(other, "cpu")
        stranger.document.add_image("discs", make_plane("discs").pixels)
        stranger.document.do(ImportLabels("discs", make_plane("discs").labels))
        stranger.promote(_finish(stranger, 0.1, 0.9))
        stranger.adapters["v1"].save(path)
    workspace.document.do(SetBox(PLANE, Box(4, 4, 20, 20)))
    before = predict_pending(workspace).logits
    with pytest.raises(error):
        workspace.load_adapter(path)
    assert [e.name for e in workspace.adapters.entries] == ["base", "v1"]
    assert workspace.live.name == "v1"
    np.testing.assert_array_equal(predict_pending(workspace).logits, before)


def test_a_model_that_cannot_be_loaded_leaves_the_old_one(
    workspace: Workspace, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"nothing")
    engine = workspace.engine
    with pytest.raises(CheckpointError):
        workspace.load_model(bad, "cpu")
    assert workspace.engine is engine


def test_without_a_model_or_a_prompt_there_is_advice() -> None:
    workspace = Workspace()
    with pytest.raises(ConfigurationError, match="choose a model first"):
        _ = workspace.engine
    with pytest.raises(ConfigurationError, match="add a point or a box"):
        predict_pending(workspace)
    with pytest.raises(ConfigurationError, match="choose one of base"):
        workspace.activate("v9")


def test_signals_tell_what_changed(workspace: Workspace, checkpoint: Path) -> None:
    seen: list[str] = []
    workspace.events.adapters_changed.connect(lambda: seen.append("adapters"))
    workspace.events.model_changed.connect(lambda: seen.append("model"))
    workspace.activate("base")
    workspace.load_model(checkpoint, "cpu")
    assert seen == ["adapters", "model", "adapters"]


def test_a_model_load_that_was_overtaken_does_not_go_live(
    workspace: Workspace, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_peftsam.app import workspace as module

    other = tmp_path / "other.pth"
    torch.save(build_tiny(seed=5).sam.state_dict(), other)
    real_build = module.build

    def build_slowly(source: str | Path, device: str, precision: str) -> object:
        model = real_build(source, device, precision=precision)
        if Path(source) == other:
            workspace.load_model(checkpoint, "cpu")  # the user chooses again meanwhile
        return model

    monkeypatch.setattr(module, "build", build_slowly)
    workspace.load_model(other, "cpu")
    assert workspace.engine.model.name == "tiny"
    assert workspace.prepare_training(CONFIG)().source == str(checkpoint)


def test_an_adapter_that_does_not_fit_leaves_no_trace_in_the_list(
    workspace: Workspace, checkpoint: Path, tmp_path: Path
) -> None:
    _annotate(workspace)
    finished = _finish(workspace, 0.1, 0.9)
    other = tmp_path / "other.pth"
    torch.save(build_tiny(seed=5).sam.state_dict(), other)
    workspace.load_model(other, "cpu")
    with pytest.raises(AdapterMismatchError):
        workspace.promote(finished)
    assert [e.name for e in workspace.adapters.entries] == ["base"]


def test_embeddings_are_remembered_without_a_store(checkpoint: Path) -> None:
    workspace = Workspace()
    workspace.load_model(checkpoint, "cpu")
    workspace.document.add_image("discs", make_plane("discs").pixels)
    first, second = (list(workspace.embed(PLANE)) for _ in range(2))
    assert isinstance(first[-1], Encoded)
    assert not first[-1].from_store
    assert not any(isinstance(event, EncodeProgress) for event in second)
    assert isinstance(second[-1], Encoded)
    assert second[-1].embedding is first[-1].embedding
