"""Objects of another project, imported into an image of this one."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.document import Document, DocumentImage, PlaneKey
from napari_peftsam.errors import LabelError
from napari_peftsam.projects import Imported, import_objects
from napari_peftsam.types import Prompts
from tests.document._cases import SHAPE, check_invariants, new_objects, rectangle


def image_with(kind: str, objects: int, *, first_row: int, label: int = 1) -> DocumentImage:
    """Return an image of one-row objects, numbered from `label` on."""
    labels = np.zeros(SHAPE, kind)
    for number in range(objects):
        labels[first_row + number] = label + number
    document = Document()
    image = document.add_image("cells", np.zeros(SHAPE), labels=labels)
    return document.image(image)


def import_from(own: DocumentImage, other: DocumentImage) -> Imported:
    return import_objects(own, {"": other.labels}, other.records)


def test_own_objects_keep_their_pixels_and_the_others_get_new_labels() -> None:
    document = Document()
    key = PlaneKey(document.add_image("cells", np.zeros(SHAPE)))
    document.do(new_objects((Prompts(), rectangle(0, 0, 3, 9), 0.5), plane=key, model="tiny"))
    found = import_from(document.image(key.image), image_with("int32", 5, first_row=1))
    assert (found.objects, found.covered) == (5, 0)
    assert found.action is not None
    document.do(found.action)
    labels = document.image(key.image).labels
    assert (labels[:3, :9] == 1).all()
    assert np.unique(labels[1:6, 9:]).tolist() == [2, 3, 4, 5, 6]
    assert document.records(key.image)[0].model == "tiny"
    check_invariants(document)


def test_objects_that_own_ones_cover_are_counted() -> None:
    found = import_from(image_with("int32", 2, first_row=0), image_with("int32", 3, first_row=1))
    assert (found.objects, found.covered) == (2, 1)
    nothing = import_from(image_with("int32", 2, first_row=0), image_with("int32", 2, first_row=0))
    assert (nothing.action, nothing.covered) == (None, 2)


@pytest.mark.parametrize(("label", "fits"), [(252, True), (253, False)])
def test_labels_are_taken_up_to_the_largest_of_their_type(label: int, fits: bool) -> None:
    """Two more objects get the labels 254 and 255, or 255 and 256."""
    own, other = (
        image_with("uint8", 2, first_row=0, label=label),
        image_with("uint8", 2, first_row=5),
    )
    if fits:
        action = import_from(own, other).action
        assert action is not None
        assert action.labels.max() == 255
    else:
        with pytest.raises(LabelError, match="cannot hold label 256"):
            import_from(own, other)
