# SPDX-License-Identifier: Apache-2.0
"""Models with random weights, made where they are to run and in the dtype that they are to run in.

Drawing seven billion normal numbers takes minutes on a processor. The weights here are copies of one small pool of such
numbers: no two rows alike in practice, no zeros, no denormals, nothing that overflows, at the speed of the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_POOL = 2**22 + 15  # odd, so that rows of usual lengths begin at different places of it
_DRAWS: set[Callable[..., Any]] = {
    Tensor.normal_, Tensor.uniform_, Tensor.random_, Tensor.exponential_, Tensor.cauchy_, Tensor.log_normal_,
    torch.nn.init.trunc_normal_, torch.nn.init.kaiming_uniform_, torch.nn.init.kaiming_normal_,
    torch.nn.init.xavier_uniform_, torch.nn.init.xavier_normal_, torch.nn.init.normal_, torch.nn.init.uniform_,
}  # fmt: skip


class _NoDraws(TorchFunctionMode):
    """Leaves out the random draws of modules' own initialisation, which would be overwritten."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def random_model(config: Any, device: torch.device, dtype: torch.dtype, attention: str = "sdpa", seed: int = 0) -> Any:
    """A model of a config in eval mode, with random weights of the usual sizes.

    Args:
        config: of a supported family.
        device, dtype: where and what the weights are from the start; no copy in float32 exists at any time.
        attention: name of the attention kernel.
        seed: of the weights.

    Returns:
        A model whose `generate` never ends an answer before its length.
    """
    model = empty_model(config, device, dtype, attention)
    fill(model, seed)
    return model


def empty_model(config: Any, device: torch.device, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """The same with weights that hold anything; on the device "meta" it takes no memory."""
    from transformers import AutoModelForImageTextToText

    from prunevid import models

    models.register_ports()
    with torch.device(device), _NoDraws(), _quick():
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)
    model.tie_weights()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval().requires_grad_(False)


def _quick() -> Any:
    """transformers' own way to leave initialisation out, where there is one."""
    try:
        from transformers.initialization import no_init_weights
    except ImportError:
        return nullcontext()
    return no_init_weights()


@torch.no_grad()
def fill(model: torch.nn.Module, seed: int = 0) -> None:
    """Gives every weight a value: matrices a standard deviation of 1 / sqrt(inputs), gains 1, biases 0."""
    pools: dict[tuple[torch.device, torch.dtype], Tensor] = {}
    start = 0
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        key = (weight.device, weight.dtype)
        if key not in pools:
            generator = torch.Generator(weight.device).manual_seed(seed)
            # Uniform numbers away from 0 have no denormals in any dtype.
            pool = torch.rand(_POOL, generator=generator, device=weight.device).mul_(0.99).add_(0.01)
            signs = torch.rand(_POOL, generator=generator, device=weight.device) < 0.5
            pools[key] = torch.where(signs, -pool, pool).mul_(3**0.5).to(weight.dtype)
        start = _copy(weight, pools[key], start)
        weight.mul_((weight[0].numel()) ** -0.5)


def _copy(weight: Tensor, pool: Tensor, start: int) -> int:
    """Fills a weight from the pool, beginning at `start` and at its beginning again; returns where the next begins."""
    flat = weight.view(-1)
    done = 0
    while done < len(flat):
        count = min(len(flat) - done, len(pool) - start)
        flat[done : done + count] = pool[start : start + count]
        done, start = done + count, (start + count) % len(pool)
    return start
