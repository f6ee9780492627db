"""image_runtime with a moving average of the weights, which is what is scored and saved.

A checkpoint's ``state_dict`` is the average and its ``ema_state_dict`` the weights in training; a resumed run continues both.
"""

_base_ = "./image_runtime.py"

custom_hooks = [
    dict(type="ResamplePositionsHook"),
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=1e-4),
]
