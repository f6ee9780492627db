"""scikit-learn's 1 797 handwritten digits, enlarged from 8 × 8 to 32 × 32 pixels: the first half trains, the second half tests.

They come with scikit-learn: pip install scikit-learn
"""

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="Digits", subset="trainval"),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=0,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="Digits", subset="test"),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="TopAccuracy", top=(1,))
test_evaluator = val_evaluator
