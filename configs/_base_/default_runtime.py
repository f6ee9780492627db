"""Logging, checkpoints, seed and process set-up shared by all configs."""

default_scope = "mmdet3d"
custom_imports = dict(imports=["visionrnn.integrations.mmdet3d", "visionrnn.integrations.mmengine"], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=10),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="AtomicCheckpointHook", interval=1, max_keep_ckpts=5, save_best=None),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
custom_hooks = []

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),  # without CUDA the launchers use gloo
)
log_processor = dict(type="LogProcessor", window_size=20, by_epoch=True)
log_level = "INFO"
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])
randomness = dict(seed=0)
load_from = None
resume = False
