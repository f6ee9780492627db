"""LION (arXiv 2407.18232) from points to a bird's-eye map, 128 channels; a data set's base adds its grid, bird's-eye net and head."""

model = dict(
    type="PointVoxelNet",
    data_preprocessor=dict(type="Det3DDataPreprocessor"),
    voxel_encoder=dict(type="PointVFE", in_channels=4, feat_channels=[128, 128]),
    middle_encoder=dict(
        type="LIONEncoder",
        dim=128,
        operator=dict(type="mamba", d_state=16, d_conv=4, expand=2),
        stages=[
            dict(window=[13, 13, 32], group_size=4096),
            dict(window=[13, 13, 16], group_size=2048),
            dict(window=[13, 13, 8], group_size=1024),
            dict(window=[13, 13, 4], group_size=512),
        ],
        out_group_size=256,
        drop_path=0.2,
        generate_ratio=0.2,
    ),
)
