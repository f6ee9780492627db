"""LION with TTT on the synthetic street scenes, otherwise as lion-mamba_1xb2_synthetic-3d-3class.

visionrnn create-data synthetic --out data/synthetic --train 60 --val 20
visionrnn train lion-ttt_1xb2_synthetic-3d-3class
"""

_base_ = "./lion-mamba_1xb2_synthetic-3d-3class.py"

model = dict(middle_encoder=dict(operator=dict(_delete_=True, type="ttt", num_heads=2)))
