"""micro-sam's decoder: its files, and its maps in our convention.

That it computes what theirs computes is tested in `tests/interoperability`.
"""

from __future__ import annotations

import pytest
import torch

from napari_peftsam.errors import CheckpointError
from napari_peftsam.models import DenseHead, UnetrDecoder


@pytest.fixture(scope="module", params=[False, True], ids=["bilinear", "transposed"])
def decoder(request: pytest.FixtureRequest) -> UnetrDecoder:
    torch.manual_seed(0)
    return UnetrDecoder(32, transposed=request.param).eval()


def test_a_file_says_how_the_network_is_made(decoder: UnetrDecoder) -> None:
    again = UnetrDecoder.from_state(decoder.state_dict(), "decoder.pt")
    features = torch.randn(1, 32, 2, 2)
    with torch.inference_mode():
        assert torch.equal(again(features), decoder(features))


def test_depth_is_one_minus_the_distance_to_the_boundary(decoder: UnetrDecoder) -> None:
    features = torch.randn(1, 32, 2, 2)
    with torch.inference_mode():
        theirs = decoder.distances(features).sigmoid()
        foreground, depth, boundary = decoder(features).sigmoid().unbind(1)
    assert theirs.shape == (1, 3, 32, 32)
    torch.testing.assert_close(foreground, theirs[:, 0])
    torch.testing.assert_close(depth, 1 - theirs[:, 2])
    assert torch.equal(boundary > 0.5, theirs[:, 2] > 0.75)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda state: DenseHead(32).state_dict(), id="of another network"),
        pytest.param(lambda state: {**state, "more": torch.zeros(1)}, id="one tensor too many"),
        pytest.param(
            lambda state: {k: v for k, v in state.items() if k != "out_conv.bias"},
            id="one is missing",
        ),
        pytest.param(
            lambda state: {**state, "out_conv.weight": torch.zeros(2, 64, 1, 1)},
            id="of another shape",
        ),
    ],
)
def test_other_tensors_are_refused(decoder: UnetrDecoder, change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CheckpointError, match=r"decoder\.pt"):
        UnetrDecoder.from_state(change(dict(decoder.state_dict())), "decoder.pt")
