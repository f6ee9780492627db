"""LION (Liu et al. 2024) as a user would carry it over to plain PyTorch on the CPU: the yardstick of ``tools/benchmark.py lion``.

It computes what the published system computes and loads its weights by their published names, but nothing in it is chosen for speed
beyond what the published structure asks for:

- groups are filled with copies of voxels ("duplicate" padding), the fill is worked out sample by sample in a Python loop;
- every layer computes and sorts its window keys again, for both axes: 34 sorts per forward;
- voxels are generated sample by sample, merged with ``torch.unique``, and every merge looks up its neighbours anew;
- recurrences are loops over ``unbind``: Mamba's selective scan and RWKV's two directions step by step, TTT mini-batch by mini-batch;
- RetNet and xLSTM materialise T × T matrices for each group and head, xLSTM several of them, as published;
- convolutions are zero-padded ``torch.conv1d``; products use PyTorch's default GEMM settings.

The submanifold convolution is this project's own (visionrnn.layers.sparse_conv): a plain one would be slower, so this favours the port.
For comparison only: nothing of visionrnn uses it.
"""

from lion_port.backbone import PortedLION

__all__ = ["PortedLION"]
