"""How long it takes to make another adapter live, beside embedding an image again.

``python tests/benchmarks/adapter_switching.py [ARCHITECTURE]`` puts one adapter per method into
a model with random weights and switches between them and the base: the first time, when its
modules are made, and later. Seconds are medians; the last column is how many switches take as
long as one pass of the encoder.
"""

from __future__ import annotations

import sys
from statistics import median
from time import perf_counter

import torch

from napari_peftsam.models import build_random
from napari_peftsam.peft import METHODS, AdapterSwitch, capture, inject, parse_method_config

REPEATS = 9


def main() -> None:
    """Measure every method and print a table."""
    name = sys.argv[1] if len(sys.argv) > 1 else "vit_b"
    model = build_random(name)
    side = model.architecture.image_size
    with torch.no_grad():
        began = perf_counter()
        model.sam.image_encoder(torch.zeros(1, 3, side, side))
        embedding = perf_counter() - began
    print(f"one pass of the encoder of {name}: {embedding:.2f} s")
    print(f"{'method':20} {'first':>8} {'later':>8} {'passes':>8}")
    for name, method in METHODS.items():
        if method.obstacle(model.device.type):
            continue
        with inject(model, parse_method_config({"method": name})) as injection:
            adapter = capture(injection)
        switch = AdapterSwitch(model)
        times = []
        for _ in range(REPEATS):
            for live in (adapter, None):
                began = perf_counter()
                switch.use(live)
                times.append(perf_counter() - began)
        first, later = times[0], median(times[2:])
        print(f"{name:20} {first:8.4f} {later:8.4f} {embedding / later:8.0f}")


if __name__ == "__main__":
    main()
