"""What the classifiers of the digits share: one channel of 32 × 32 pixels, ten classes, warped images, smoothed labels."""

model = dict(
    type="ImageClassifier",
    backbone=dict(img_size=32, in_chans=1, num_classes=10),
    augment=[dict(type="RandomWarp", turn=12.0, scale=0.15, shear=0.15, move=0.08, bend=0.02)],
    loss=dict(type="LabelSmoothingCrossEntropy", smoothing=0.1),
)
