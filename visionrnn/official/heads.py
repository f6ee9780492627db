"""Published names of LION's bird's-eye nets and heads, and ours. TransFusion's head and mmdet3d's SECONDFPN
have the published names.

What the numbers mean where names alone could deceive; both sides agree, so no value changes but for axes of size one:

* Maps are [channel, y, x]. TransFusion's convolutions are stored as [out, in, x, y] on both sides.
* Anchor head: output channel = (anchor · n + k), anchor = class · 2 + yaw index for the yaws 0 and 1.57, k the class score, the box number
  (x, y, z, l, w, h, yaw) or the direction bin. mmdet3d's Anchor3DHead with Anchor3DRangeGenerator orders anchors alike (per cell y, x:
  range and size, then yaw). Box numbers are relative to the anchor in both: x, y by its diagonal, z of the GEOMETRIC centre by its
  height, logarithms of sizes, difference of yaws. The direction bin is that of yaw − 0.78539 in [0, 2π) halved.
* Centre heads: ``rot`` is (cos, sin) of the yaw, ``dim`` the logarithms of l, w, h, ``center`` the place in the cell from its lower
  corner in cells, ``center_z`` metres of the geometric centre, ``iou`` 2 · IoU − 1. TransFusion: ``rot`` is (sin, cos), ``height`` the
  metres of the box's top.
* Yaw is counter-clockwise from +x on both sides. Class order is the config's: Car, Pedestrian, Cyclist on KITTI; the published order
  of each data set must be kept in ``metainfo`` for released weights.
"""

from __future__ import annotations

from visionrnn.official.rules import Rule, Table

LAYERS = 32  # convolutions per stage that names are known for; LION has 6

BEV: Table = (  # mmdet3d's SECOND pads in the convolution, the published one by a layer before it; ResSECOND's names are the same
    *(Rule(f"blocks.*.{3 * i + 1}.*", f"blocks.*.{3 * i}.*") for i in range(LAYERS)),
    *(Rule(f"blocks.*.{3 * i + 2}.*", f"blocks.*.{3 * i + 1}.*") for i in range(LAYERS)),
)

ANCHOR: Table = (Rule("conv_box.**", "conv_reg.**"),)

CENTRE: Table = (Rule("heads_list.0.*.**", "branches.*.**"),)

SPARSE: Table = (
    Rule("heads_list.*.*.0.0.weight", "heads.*.*.conv.weight", own_axes=(1,)),  # [out, y, x, in] and ours [out, 1, y, x, in]
    Rule("heads_list.*.*.0.1.**", "heads.*.*.norm.**"),
    Rule("heads_list.*.*.1.weight", "heads.*.*.out.weight", unit_axes=(1, 2)),
    Rule("heads_list.*.*.1.bias", "heads.*.*.out.bias"),
)
