"""This package's image classifiers for timm: ``timm.create_model("vil2_tiny_patch16_224.in1k")`` and the other names below.

``import visionrnn`` is enough, before or after ``import timm``. Keyword arguments of ``create_model`` override an entry's:
``dim=64, depth=4, img_size=64, dynamic_img_size=True, traversal="hilbert"``. docs/timm.md shows how the entries are used.

Raises MissingPackageError when timm is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from visionrnn.backbones.classifier import Classifier
from visionrnn.backbones.pyramid import PyramidRNN
from visionrnn.backbones.pyramid import sized as sized_pyramid
from visionrnn.backbones.sequencer import Sequencer2D
from visionrnn.backbones.vil import V1, V2, ViL
from visionrnn.backbones.vision_rnn import SIZES, VisionRNN, sized
from visionrnn.checkpoints import from_official, read_checkpoint
from visionrnn.errors import MissingPackageError
from visionrnn.layers.patch_embed import PatchEmbed, resample_positions

try:
    import timm  # noqa: F401  (on_import.py compares it with the timm that is there)
except ModuleNotFoundError as error:
    if error.name != "timm":
        raise
    raise MissingPackageError("timm is not installed; visionrnn.integrations.timm needs it. Install it with: pip install timm") from None

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg
from timm.models._hub import download_cached_file

RELEASED = "https://ml.jku.at/research/vision_lstm/download/"
FILE = "file to read"
"""Key of a state dict that only names a file; see :func:`_read_safely`."""

POSITIONS = "pos_embed.embed"
TRAINED = "backbone."
"""What the names of a classifier's weights begin with in checkpoints of ``visionrnn train``."""

FAMILIES: dict[type, str] = {ViL: "vil", Sequencer2D: "sequencer"}
"""Models whose weights were published with other names than ours; see ``visionrnn.official``."""


def checkpoint_filter_fn(state: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Weights for ``model``: published names become ours, learned positions are re-sampled for the model's grid.

    ``state``: a state dict, alone or under ``state_dict``, of a classifier or of a training. A norm before the head that was trained for
    another ``global_pool`` is left out: the model keeps its own.
    """
    state = read_checkpoint(state[FILE]) if FILE in state else state
    weights = _fitted(state["state_dict"] if isinstance(state.get("state_dict"), Mapping) else state, model)
    own = model.state_dict()
    others = [name for name in weights if name.startswith("head_norm.") and name in own and weights[name].shape != own[name].shape]
    return {**weights, **{name: own[name] for name in others}}


def of_classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The classifier's weights, where the state dict is of a training."""
    trained = {name.removeprefix(TRAINED): value for name, value in state.items() if name.startswith(TRAINED)}
    return trained or dict(state)


def _fitted(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights under our names, positions for the model's grid."""
    weights, own, family = of_classifier(state), model.state_dict(), FAMILIES.get(type(model))
    if family is not None and not weights.keys() <= own.keys():
        weights = from_official(weights, family)
    if POSITIONS in own and POSITIONS in weights:
        rows, columns = own[POSITIONS].shape[1:3]
        weights[POSITIONS] = resample_positions(weights[POSITIONS], (rows, columns))
    return weights


def _fit(model: nn.Module, state: dict[str, Tensor], prefix: str, *_others: Any) -> None:
    """Before ``load_state_dict``: ``checkpoint_path=`` and timm's scripts load files without their model's filter."""
    if not prefix:
        weights = _fitted(state, model)
        state.clear()
        state.update(weights)


def _read_safely(variant: str, cfg: Any, overlay: Mapping[str, Any] | None, cache_dir: Any) -> dict[str, Any]:
    """The overlay, which has our reader take the place of timm's where weights come from an address.

    For an address timm repeats a restricted read that raised TypeError without the restriction, and refuses a file that holds any object
    beside its weights.
    """
    overlay = dict(overlay or {})
    found = resolve_pretrained_cfg(variant, cfg, overlay)
    if found.url and not (found.source or found.state_dict or found.file or found.hf_hub_id):
        overlay["state_dict"] = {FILE: str(download_cached_file(found.url, **({"cache_dir": cache_dir} if cache_dir else {})))}
    return overlay


def _create(model_class: type[Classifier], variant: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    """The model, or with ``features_only`` what gives its features."""
    overlay = kwargs.pop("pretrained_cfg_overlay", None)
    if pretrained:
        overlay = _read_safely(variant, kwargs.get("pretrained_cfg"), overlay, kwargs.get("cache_dir"))
    only_features = kwargs.get("features_only", False)
    device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    with nullcontext() if device is None else torch.device(device):
        model: Any = build_model_with_cfg(
            model_class,
            variant,
            pretrained,
            pretrained_cfg_overlay=overlay,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg=dict(out_indices=kwargs.pop("out_indices", FEATURES[model_class]), feature_cls="getter"),
            **kwargs,
        ).to(dtype=dtype)
    classifier: Any = next(part for part in model.modules() if isinstance(part, Classifier))
    patches = next(part for part in model.modules() if isinstance(part, PatchEmbed))
    for part in {classifier, model}:
        part.in_chans = patches.proj.in_channels  # timm saves it beside the weights
        if FILE in (part.pretrained_cfg.get("state_dict") or {}):
            del part.pretrained_cfg["state_dict"]
    if not only_features:
        model.register_load_state_dict_pre_hook(_fit)
    return model


def _cfg(**values: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        **values,
    }


def _vil_cfg(file: str, **values: Any) -> dict[str, Any]:
    return _cfg(
        url=f"{RELEASED}{file}.th",
        license="mit",
        origin_url="https://github.com/NX-AI/vision-lstm",
        paper_name="Vision-LSTM: xLSTM as Generic Vision Backbone",
        paper_ids="arXiv:2406.04303",
        **values,
    )


def _sequencer_cfg(**values: Any) -> dict[str, Any]:
    return _cfg(
        crop_pct=0.875,
        fixed_input_size=False,
        first_conv="stem.proj",
        classifier="head.fc",
        origin_url="https://github.com/okojoalg/sequencer",
        paper_name="Sequencer: Deep LSTM for Image Classification",
        paper_ids="arXiv:2205.01972",
        **values,
    )


VIL: dict[str, dict[str, Any]] = {
    "tiny": dict(dim=192, depth=24),
    "tinyplus": dict(dim=192, depth=29),
    "small": dict(dim=384, depth=24),
    "smallplus": dict(dim=384, depth=26),
    "base": dict(dim=768, depth=24),
}
SEQUENCER = {"s": (4, 3, 8, 3), "m": (4, 3, 14, 3), "l": (8, 8, 16, 4)}
OPERATORS = {"mamba": "mamba", "rwkv": "rwkv6", "retnet": "retnet", "xlstm": "mlstm", "ttt": "ttt_linear"}
"""Operators by the names models have → by the names they are registered with; those below come in one size."""
MORE_OPERATORS = {"gla": "gla", "deltanet": "deltanet", "mingru": "mingru", "lightnet": "lightnet"}

FEATURES = {ViL: 3, Sequencer2D: (0, 1, 2), VisionRNN: 3, PyramidRNN: (0, 1, 2, 3)}
"""Maps that ``features_only`` gives unless told otherwise: the last so many, or those listed."""

ENTRIES: dict[str, tuple[type[Classifier], dict[str, Any]]] = {
    **{f"vil_{size}_patch16_224": (ViL, {**V1, **VIL[size]}) for size in VIL},
    **{f"vil_{size}_patch16_stride8_224": (ViL, {**V1, **VIL[size], "stride": 8}) for size in ("tinyplus", "smallplus", "base")},
    **{f"vil2_{size}_patch16_224": (ViL, {**V2, **VIL[size]}) for size in ("tiny", "small", "base")},
    **{f"lstm_sequencer2d_{size}": (Sequencer2D, {"layers": layers}) for size, layers in SEQUENCER.items()},
    **{f"{cell}_sequencer2d_s": (Sequencer2D, {"layers": SEQUENCER["s"], "cell": cell}) for cell in ("gru", "rnn")},
    **{f"visionrnn_{name}_{size}_patch16_224": (VisionRNN, sized(OPERATORS[name], size)) for name in OPERATORS for size in SIZES},
    **{f"visionrnn_{name}_tiny_patch16_224": (VisionRNN, sized(MORE_OPERATORS[name], "tiny")) for name in MORE_OPERATORS},
    **{f"pyramidrnn_{name}_tiny_224": (PyramidRNN, sized_pyramid(operator, "tiny")) for name, operator in OPERATORS.items()},
}
"""Name → the model and its keyword arguments."""

default_cfgs = generate_default_cfgs(
    {
        "vil_tiny_patch16_224.in1k": _vil_cfg("vil_tiny16_e800_in1k"),
        "vil_tiny_patch16_224.e400_in1k": _vil_cfg("vil_tiny16_e400_in1k"),
        "vil_tinyplus_patch16_224.in1k": _vil_cfg("vil_tinyplus16_e800_in1k"),
        "vil_tinyplus_patch16_224.e400_in1k": _vil_cfg("vil_tinyplus16_e400_in1k"),
        "vil_small_patch16_224.in1k": _vil_cfg("vil_small16_e400_in1k"),
        "vil_smallplus_patch16_224.in1k": _vil_cfg("vil_smallplus16_e400_in1k"),
        "vil_base_patch16_224.in1k": _vil_cfg("vil_base16_e400_in1k"),
        "vil_tinyplus_patch16_stride8_224.in1k": _vil_cfg(
            "vil_tinyplus16_e800_in1k", notes=("the address the authors give for this model is that of the one with stride 16",)
        ),
        "vil_smallplus_patch16_stride8_224.in1k": _vil_cfg("vil_smallplus16_e400_in1k_stride8"),
        "vil_base_patch16_stride8_224.in1k": _vil_cfg("vil_base16_e400_in1k_stride8"),
        "vil2_tiny_patch16_224.in1k": _vil_cfg("vil2_tiny16_e800_in1k"),
        "vil2_tiny_patch16_224.e400_in1k": _vil_cfg("vil2_tiny16_e400_in1k"),
        "vil2_small_patch16_224.in1k": _vil_cfg("vil2_small16_e400_in1k"),
        "vil2_base_patch16_224.in1k": _vil_cfg("vil2_base16_e400_in1k"),
        **{
            f"lstm_sequencer2d_{size}.in1k": _sequencer_cfg(hf_hub_id=f"timm/sequencer2d_{size}.in1k", license="apache-2.0")
            for size in SEQUENCER
        },
        **{f"{cell}_sequencer2d_s": _sequencer_cfg() for cell in ("gru", "rnn")},
        **{f"visionrnn_{name}_{size}_patch16_224": _cfg() for name in OPERATORS for size in SIZES},
        **{f"visionrnn_{name}_tiny_patch16_224": _cfg() for name in MORE_OPERATORS},
        **{f"pyramidrnn_{name}_tiny_224": _cfg(fixed_input_size=False) for name in OPERATORS},
    }
)


def _register(name: str) -> Callable[..., nn.Module]:
    model_class, arguments = ENTRIES[name]

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if "layer" in kwargs and "layer" in arguments:  # options within an option
            kwargs["layer"] = {**arguments["layer"], **kwargs["layer"]}
        return _create(model_class, name, pretrained, {**arguments, **kwargs})

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{model_class.__name__} of the arguments in ``ENTRIES[{name!r}]``, overridden by keyword arguments."
    return register_model(entry)


for _name in ENTRIES:
    globals()[_name] = _register(_name)
