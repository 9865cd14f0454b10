# SPDX-License-Identifier: Apache-2.0
"""`prunevid doctor`: what is installed, what would run here, and why the rest would not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from prunevid.errors import one_line

PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "safetensors", "av", "numpy", "pillow")
CHECKPOINTS = {  # weights in billions
    "Qwen/Qwen2-VL-2B-Instruct": 2.2,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3.8,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.3,
    "Qwen/Qwen2.5-VL-72B-Instruct": 73.4,
}
WORKING_MEMORY = 1.2  # activations, cache and buffers of a short clip, as a factor on the weights
OPTIONAL = ("matplotlib", "flash_attn", "torchcodec", "bitsandbytes")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: whether it works, and how or why not. `essential`: nothing runs without
    it."""

    group: str
    name: str
    works: bool
    detail: str
    essential: bool = False


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> int:
    """Check versions, devices, attention kernels, clip reading and the embedded model.

    Exit status 0 when everything essential works, 1 otherwise.
    """
    from prunevid.cli import common

    with common.working("Looking around"):
        checks = [*packages(), *devices(), *kernels(), *video(), *model(), *checkpoints()]
    healthy = all(check.works for check in checks if check.essential)
    if as_json:
        common.print_json(
            {
                "healthy": healthy,
                "prunevid": _version("prunevid"),
                "python": platform.python_version(),
                "system": platform.platform(),
                "checks": [asdict(check) for check in checks],
            }
        )
    else:
        _show(checks, healthy)
    return 0 if healthy else 1


def packages() -> list[Check]:
    """Python, the packages that are needed, and those that may be there."""
    found = [Check("versions", "python", True, platform.python_version(), True)]
    for name in PACKAGES:
        found.append(_package(name, essential=True))
    for name in OPTIONAL:
        there = _version(name)
        found.append(Check("optional", name, there is not None, there or "not installed (not needed)"))
    return found


def _package(name: str, essential: bool) -> Check:
    """Whether a package can be imported: a broken pair of torch and torchvision only shows then."""
    module = {"pillow": "PIL"}.get(name, name)
    there = _version(name)
    if there is None:
        return Check("versions", name, False, f"not installed; run `pip install {name}`", essential)
    try:
        importlib.import_module(module)
    except Exception as error:  # a package of the wrong build fails with whatever it likes
        return Check("versions", name, False, f"{there}, but it can't be imported: {_line(error)}", essential)
    return Check("versions", name, True, there, essential)


def devices() -> list[Check]:
    """Where models can run."""
    try:
        import torch
    except ImportError as error:
        return [Check("devices", "cpu", False, f"torch can't be imported: {_line(error)}", True)]
    found = [Check("devices", "cpu", True, f"{torch.get_num_threads()} threads", True)]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            memory = f"{about.total_memory / 2**30:.0f} GiB"
            kind = f"compute capability {about.major}.{about.minor}"
            found.append(Check("devices", f"cuda:{index}", True, f"{about.name}, {memory}, {kind}"))
    else:
        why = "no device that torch can use" if torch.version.cuda or torch.version.hip else "torch is a CPU build"
        found.append(Check("devices", "cuda", False, why))
    mps = torch.backends.mps
    why = "" if mps.is_available() else ("no device" if mps.is_built() else "only on Macs with Apple silicon")
    found.append(Check("devices", "mps", mps.is_available(), why))
    return found


def kernels() -> list[Check]:
    """Which attention kernels transformers would accept here; sdpa and eager are tried out."""
    try:
        import torch
    except ImportError:
        return []
    found = []
    try:
        row = torch.ones(1, 2, 4, 8)
        torch.nn.functional.scaled_dot_product_attention(row, row, row)
        found.append(Check("attention", "sdpa", True, "the default", True))
    except RuntimeError as error:
        found.append(Check("attention", "sdpa", False, _line(error), True))
    found.append(Check("attention", "eager", True, "plain tensor operations, slow on long prompts"))
    found.append(_flash())
    return found


def _flash() -> Check:
    import torch

    name = "flash_attention_2"
    if not torch.cuda.is_available():
        return Check("attention", name, False, "needs a CUDA device")
    if torch.cuda.get_device_capability()[0] < 8:
        return Check("attention", name, False, "needs compute capability 8.0 or newer")
    if importlib.util.find_spec("flash_attn") is None and importlib.util.find_spec("kernels") is None:
        return Check("attention", name, False, "needs the package flash-attn (or kernels)")
    return Check("attention", name, True, "for float16 and bfloat16 models")


def video() -> list[Check]:
    """Whether clips can be read, by reading one that is made for it."""
    try:
        import av

        libraries = ", ".join(
            f"{name} {'.'.join(map(str, version))}" for name, version in sorted(av.library_versions.items())
        )
    except Exception as error:  # an av that was built for other libraries fails with whatever it likes
        return [Check("clips", "FFmpeg libraries", False, _line(error), True)]
    found = [Check("clips", "FFmpeg libraries", True, libraries, True)]
    wanted = ("h264", "hevc", "av1", "vp9", "mpeg4")
    there = [name for name in wanted if name in av.codecs_available]
    missing = [name for name in wanted if name not in there]
    detail = ", ".join(there) + (f" (not {', '.join(missing)})" if missing else "")
    found.append(Check("clips", "codecs", bool(there), detail))
    try:
        import tempfile
        from pathlib import Path

        from prunevid.builtin import make_clip, write_clip
        from prunevid.video import load_clip

        with tempfile.TemporaryDirectory() as folder:
            clip = load_clip(write_clip(make_clip(0), Path(folder) / "clip.mp4"))
        found.append(Check("clips", "write and read a clip", True, f"{len(clip.frames)} frames", True))
    except Exception as error:  # whatever goes wrong here is the finding
        found.append(Check("clips", "write and read a clip", False, _line(error), True))
    return found


def model() -> list[Check]:
    """Whether the embedded model is there and answers, and which families can be pruned."""
    import time

    found = []
    try:
        from prunevid import methods, models

        found.append(Check("models", "families", True, ", ".join(models.supported())))
        found.append(Check("models", "methods", True, ", ".join(methods.names())))
        from prunevid.builtin import make_clip
        from prunevid.qa import VideoQA

        started = time.perf_counter()
        qa = VideoQA.builtin()
        loaded = time.perf_counter() - started
        clip = make_clip(0)
        said = qa.ask(list(clip.frames), clip.questions[0].text, source_fps=clip.fps, max_new_tokens=1)
        detail = f"loads in {loaded:.1f} s and answers ({said.text!r})"
        found.append(Check("models", "embedded model", True, detail, True))
    except Exception as error:  # whatever goes wrong here is the finding
        found.append(Check("models", "embedded model", False, _line(error), True))
    return found


def checkpoints() -> list[Check]:
    """Which public models would fit in bfloat16, judged by memory alone."""
    rooms = _memory()
    found = []
    for name, billions in CHECKPOINTS.items():
        needed = billions * 2e9 * WORKING_MEMORY / 2**30
        fitting = next((device for device, room in rooms if room >= needed), None)
        if fitting is None:
            largest = max((room for _, room in rooms), default=0.0)
            detail = f"needs about {needed:.0f} GiB in bfloat16, the largest memory here is {largest:.0f} GiB"
        else:
            slowly = ", slowly" if fitting == "cpu" else ""
            detail = f"would run on {fitting}{slowly}: about {needed:.0f} GiB in bfloat16"
        found.append(Check("would run", name, fitting is not None, detail))
    return found


def _memory() -> list[tuple[str, float]]:
    """GiB of each device and of the machine, the fastest first."""
    rooms = []
    try:
        import torch

        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            rooms.append((f"cuda:{index}", torch.cuda.get_device_properties(index).total_memory / 2**30))
        if torch.backends.mps.is_available():
            rooms.append(("mps", torch.mps.recommended_max_memory() / 2**30))
    except ImportError:
        pass  # reported by `packages`
    if hasattr(os, "sysconf"):
        rooms.append(("cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30))
    return rooms


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(str(error))[:200]}"


def _show(checks: list[Check], healthy: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from prunevid.cli import common

    console = common.console()
    console.print(f"prunevid {_version('prunevid') or '(not installed)'} on {platform.platform()}")
    table = Table(box=None, pad_edge=False, show_header=False)
    group = ""
    for check in checks:
        sign = "[green]✓[/green]" if check.works else ("[red]✗[/red]" if check.essential else "[yellow]-[/yellow]")
        table.add_row("" if check.group == group else check.group, sign, check.name, escape(check.detail))
        group = check.group
    console.print(table)
    broken = [check.name for check in checks if check.essential and not check.works]
    console.print("Everything essential works." if healthy else f"Broken: {', '.join(broken)}.")
