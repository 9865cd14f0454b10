# SPDX-License-Identifier: Apache-2.0
"""Tiny models of the benchmark's shapes."""

from __future__ import annotations

import functools

import torch

from prunevid.bench import Made, shapes
from prunevid.bench.weights import random_model

CPU = torch.device("cpu")


@functools.cache
def subject(name: str = "qwen2.5-vl-7b", layers: int = 4, width: int = 128) -> Made:
    """The shape with few layers; the same object each time, with nothing attached."""
    config = shapes.scaled(shapes.get(name).config(), layers=layers, width=width)
    return Made(name, random_model(config, CPU, torch.float32))
