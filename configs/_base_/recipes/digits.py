"""Half a minute of training on scikit-learn's handwritten digits; a config adds the model."""

_base_ = [
    "../datasets/digits.py",
    "../models/digits.py",
    "../schedules/image-digits.py",
    "../image_runtime-digits.py",
]
