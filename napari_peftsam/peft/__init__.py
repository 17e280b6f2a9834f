"""Parameter-efficient finetuning: methods, placement, injection, adapter files, merging.

The package offers the names that the `__all__` of these modules lists.
"""
# ruff: noqa: F403

from napari_peftsam.peft.adapter import *
from napari_peftsam.peft.exchange import *
from napari_peftsam.peft.inject import *
from napari_peftsam.peft.merge import *
from napari_peftsam.peft.methods import *
from napari_peftsam.peft.methods.lora import *
from napari_peftsam.peft.methods.selective import *
from napari_peftsam.peft.placement import *
from napari_peftsam.peft.protocol import *
from napari_peftsam.peft.switch import *
