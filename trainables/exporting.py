"""A network as files that others can run: images in [0, 1] in, logits out, normalisation inside, any number of images.

    safetensors   weights and champion.json, which rebuild the network with kdtune; --teacher NAME:FILE takes them
    pt2           a torch.export program, for torch alone
    onnx          an ONNX model, for any of its runtimes
    onnx-int8     the same with 8-bit weights and maps (static, QDQ), its ranges seen on training images

Torch's own quantisation (torch.ao) is deprecated and what it makes has no file format of torch's that lasts, so 8 bits
are ONNX Runtime's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.champion import WEIGHTS, rebuild, save_champion
from trainables.data.splits import Facts
from trainables.data.views import to_float
from trainables.models.normalized import LogitsOnly

INPUT, OUTPUT = "images", "logits"  # as an ONNX model calls them
NEEDED = ("onnx", "onnxscript", "onnxruntime")
CALIBRATED = 64  # images at a time that show the ranges


@dataclass(frozen=True)
class Export:
    """A student on its way out."""

    about: Mapping[str, Any]  # student, teacher, method, hyper: what rebuilds it
    facts: Facts
    state: Mapping[str, Mapping[str, Tensor]]  # its weights, and its adapter's
    seen: Tensor  # training images uint8 (N, channels, H, W) that 8-bit ranges come from

    def network(self) -> nn.Module:
        """Images (B, channels, H, W) in [0, 1] in, logits (B, C) out, in eval mode and without gradients."""
        made = LogitsOnly(rebuild(self.about, self.facts, self.state))
        return made.requires_grad_(False).eval()

    def example(self) -> Tensor:
        """Two images: with one, the batch's dimension would be taken for a constant."""
        return torch.rand(2, self.facts.channels, self.facts.size, self.facts.size)


def check(form: str) -> None:
    """Raise ValueError for a form that is not known, or that lacks its libraries here."""
    if form not in FORMS:
        raise ValueError(f"--format must be one of {', '.join(FORMS)}, got {form!r}")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if form.startswith("onnx") and missing:
        raise ValueError(
            f"--format {form} must have {missing[0]}, got none: python -m pip install 'kdtune[onnx]'"
        )


def write(form: str, export: Export, folder: Path) -> Path:
    """Write one form into `folder`; the file. Raises ValueError where the network cannot be had in that form."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _quiet():
            return FORMS[form](export, folder)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{export.about['student']} must go into {form}, got: {reason}") from None


def _safetensors(export: Export, folder: Path) -> Path:
    save_champion(folder, dict(export.about), export.facts, export.state)
    return folder / WEIGHTS


def _pt2(export: Export, folder: Path) -> Path:
    path = folder / "model.pt2"
    torch.export.save(_program(export), path)
    return path


def _onnx(export: Export, folder: Path) -> Path:
    path = folder / "model.onnx"
    names: Any = {"input_names": [INPUT], "output_names": [OUTPUT]}
    sizes = _sizes()
    example = (export.example(),)
    torch.onnx.export(
        export.network(),
        example,
        path,
        dynamo=True,
        dynamic_shapes=sizes,
        external_data=False,
        verbose=False,
        **names,
    )
    return path


def _onnx_int8(export: Export, folder: Path) -> Path:
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    class Seen(quantization.CalibrationDataReader):
        """The training images, some at a time."""

        def __init__(self) -> None:
            self.parts = iter(export.seen.split(CALIBRATED))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {INPUT: to_float(part).numpy()}

    path = folder / "model-int8.onnx"
    with tempfile.TemporaryDirectory() as place:
        plain = _onnx(export, Path(place))
        ready = plain.with_name("ready.onnx")
        shape_inference.quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        quantization.quantize_static(str(ready), str(path), Seen(), per_channel=True)
    return path


FORMS: dict[str, Callable[[Export, Path], Path]] = {
    "safetensors": _safetensors,
    "pt2": _pt2,
    "onnx": _onnx,
    "onnx-int8": _onnx_int8,
}
ROUNDED = ("onnx-int8",)  # forms whose answers are not the network's to 1e-4, but for their purpose


def _program(export: Export) -> torch.export.ExportedProgram:
    return torch.export.export(
        export.network(), (export.example(),), dynamic_shapes=_sizes(), strict=False
    )


def _sizes() -> Any:
    """Any number of images."""
    return ({0: torch.export.Dim("batch")},)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes on their own progress and deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
