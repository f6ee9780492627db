"""Vision-LSTM's parts against its authors' package: layers, blocks, the cell with gates and norm, the small pieces, positions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from vil_cases import GRAD, OUT, compare, load

from visionrnn.backbones.vil import ViLBlock, ViLLayer
from visionrnn.kernels import available_backends, mlstm
from visionrnn.layers.causal_conv import CausalConv
from visionrnn.layers.grid_conv import GridConv
from visionrnn.layers.linear import Linear
from visionrnn.layers.norm import GroupedNorm, OffsetLayerNorm
from visionrnn.layers.patch_embed import resample_positions
from visionrnn.serialization.grids import Grids
from visionrnn.serialization.traversal2d import Path

dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
AHEAD, BACK = Path("raster"), Path("raster", reverse=True)


def options(name: str) -> dict:
    """Of the layers in a stored file."""
    if "v1" in name:
        wide = dict(qkv_block=8, num_heads=8, expand=1) if "qkvblock8" in name else {}
        return dict(conv="causal", bias=False, norm_bias=False, **wide)
    return dict(conv="causal" if "causal1d" in name else "grid", conv_kernel=5 if "conv5" in name else None)


@dtypes
@pytest.mark.goldens("vil", "layer_*.npz")
def test_layer(golden, dtype, close):
    layer = ViLLayer(golden.config["dim"], **options(golden.name))
    load(layer, golden, dtype)
    x, path = golden["x"].to(dtype).requires_grad_(), BACK if "bot" in golden.config["direction"] else AHEAD
    grids = Grids((tuple(golden.config["seqlens"]),))
    out = layer(x, grids, path)
    if layer.conv is not None:
        u = golden["feat/proj_up"].to(dtype).chunk(2, -1)[0]
        expected = F.silu(golden["feat/conv"].to(dtype))
        if path.reverse:  # stored in the order of the path
            u, expected = u.flip(1), expected.flip(1)
        close(layer.conv(u, grids, rotated=path.reverse), expected, OUT[dtype], "convolution")
    compare(layer, out, {"x": x}, golden, close)


@dtypes
@pytest.mark.goldens("vil", "block_v1_*.npz")
def test_block(golden, dtype, close):
    path = BACK if "bot" in golden.config["direction"] else AHEAD
    block = ViLBlock(golden.config["dim"], (path,), options("v1"), norm_bias=False)
    load(block, golden, dtype)
    x = golden["x"].to(dtype).requires_grad_()
    compare(block, block(x, Grids((tuple(golden.config["seqlens"]),))), {"x": x}, golden, close)


@dtypes
@pytest.mark.goldens("vil", "blockpair_*.npz")
def test_pair_of_blocks(golden, dtype, close):
    pair = nn.ModuleList(ViLBlock(golden.config["dim"], (path,), options(golden.name)) for path in (AHEAD, BACK))
    load(pair, golden, dtype)
    x, grids = golden["x"].to(dtype).requires_grad_(), Grids((tuple(golden.config["seqlens"]),))
    compare(pair, pair[1](pair[0](x, grids), grids), {"x": x}, golden, close)


class Cell(nn.Module):
    """Gates, recurrence and norm, as they stand in the layer."""

    def __init__(self, dim: int, heads: int, bias: bool):
        super().__init__()
        self.heads, self.gates, self.norm = heads, Linear(3 * dim, 2 * heads), GroupedNorm(heads, dim, bias, offset=True)

    def forward(self, q, k, v):
        input_gate, forget_gate = self.gates(torch.cat([q, k, v], -1)).chunk(2, -1)
        heads = (value.unflatten(-1, (self.heads, -1)) for value in (q, k, v))
        return self.norm(mlstm(*heads, input_gate, forget_gate).flatten(2))


@dtypes
@pytest.mark.goldens("vil", "matrix_lstm_cell_*.npz")
def test_cell_with_gates_and_norm(golden, dtype, close):
    stored = {name: golden.group(name) for name in ("sd/", "grad/")}
    weights, gradients = (
        {
            **{f"gates.{kind}": torch.cat([group[f"{gate}gate.{kind}"] for gate in "if"]) for kind in ("weight", "bias")},
            **{f"norm.{kind}": group[f"outnorm.{kind}"] for kind in ("weight", "bias") if f"outnorm.{kind}" in group},
        }
        for group in stored.values()
    )
    cell = Cell(golden.config["dim"], golden.config["num_heads"], "norm.bias" in weights).to(dtype)
    cell.load_state_dict(weights)
    inputs = {name: golden[name].to(dtype).requires_grad_() for name in "qkv"}
    out = cell(*inputs.values())
    close(out, golden["out"], OUT[dtype], "out")
    out.backward(golden["grad_out"].to(dtype))
    for name, value in inputs.items():
        close(value.grad, stored["grad/"][name], GRAD[dtype], name)
    for name, parameter in cell.named_parameters():
        close(parameter.grad, gradients[name], GRAD[dtype], name)


@pytest.mark.parametrize("backend", available_backends("gated_linear", "gated_linear_attention", "cpu"))
@pytest.mark.goldens("vil", "mlstm_cell_parallel.npz")
def test_recurrence(golden, backend, close):
    """The bare recurrence against the authors' parallel form, gates from mild to extreme; gradients through the normaliser."""
    dtype = torch.float32 if backend == "native" else torch.float64
    for case in range(int(golden["n"])):
        stored = golden.group(f"{case}/")
        inputs = {name: stored[name].to(dtype).transpose(1, 2) for name in ("q", "k", "v", "igate", "fgate")}
        q, k, v, input_gate, forget_gate = (
            (value.squeeze(-1) if "gate" in name else value).contiguous().requires_grad_() for name, value in inputs.items()
        )
        out = mlstm(q, k, v, input_gate, forget_gate, backend=backend)
        where = f"case {case} ({golden.arrays[f'{case}/regime']}), "
        close(out, stored["h"].transpose(1, 2), OUT[dtype], where + "h")
        out.backward(stored["grad_out"].to(dtype).transpose(1, 2))
        scale = max(float(value.abs().max()) for name, value in stored.items() if name.startswith("grad/"))
        for name, value in (("q", q), ("k", k), ("v", v), ("igate", input_gate), ("fgate", forget_gate)):
            expected = stored[f"grad/{name}"].transpose(1, 2).reshape(value.shape)
            if expected.abs().max() > 1e-5 * scale:
                close(value.grad, expected, GRAD[dtype], where + name)
            else:  # a single step's memory cancels in its normaliser: what is left is the gradient beside the 1e-6
                assert value.grad.abs().max() <= 2e-6 * scale, where + name


@dtypes
@pytest.mark.goldens("vil", "pieces.npz")
def test_pieces(golden, dtype, close):
    def piece(name: str) -> dict[str, torch.Tensor]:
        return golden.group(f"{name}/", dtype)

    def weights(name: str) -> dict[str, torch.Tensor]:
        return {kind: value for kind, value in piece(name).items() if kind in ("weight", "bias")}

    for name in ("headwise_bias", "headwise_nobias"):
        stored, bound = piece(name), OUT[dtype]
        blocks = stored["weight"]
        out = torch.einsum("btni,noi->btno", stored["x"].unflatten(-1, blocks.shape[:2]), blocks).flatten(2) + stored.get("bias", 0)
        close(out, stored["out"], bound, name)
    convolution = CausalConv(24, 4).to(dtype)
    convolution.load_state_dict(weights("causal_conv1d"))
    close(convolution(piece("causal_conv1d")["x"])[0], piece("causal_conv1d")["out"], OUT[dtype], "causal convolution")
    grid = GridConv(24, 3).to(dtype)
    grid.load_state_dict(weights("seq_conv2d"))
    size = tuple(golden["seq_conv2d/seqlens"].tolist())
    close(grid(piece("seq_conv2d")["x"], Grids((size,))), piece("seq_conv2d")["out"], OUT[dtype], "convolution")
    norm = OffsetLayerNorm(24).to(dtype)
    norm.load_state_dict(weights("layernorm"))
    close(norm(piece("layernorm")["x"]), piece("layernorm")["out"], OUT[dtype], "layer norm")
    stored = piece("mh_layernorm")  # x [B, H, T, D], out [B, H, T, D]
    grouped = GroupedNorm(3, 24, offset=True).to(dtype)
    grouped.load_state_dict(weights("mh_layernorm"))
    out = grouped(stored["x"].transpose(1, 2).flatten(2)).unflatten(-1, (3, 8)).transpose(1, 2)
    close(out, stored["out"], OUT[dtype], "norm of heads")


@dtypes
@pytest.mark.goldens("vil", "pos_embed_interp.npz")
def test_positions(golden, dtype, close):
    names = [name for name in golden.arrays.files if name.endswith("/embed")]
    assert names
    for name in names:
        case = name.split("/")[0]
        out = resample_positions(golden[name].to(dtype), tuple(golden[f"{case}/to"].tolist()))
        close(out, golden[f"{case}/out"], OUT[dtype], f"case {case}")
