"""AdamW with one cycle that peaks early: OpenPCDet's adam_onecycle with LR = 3e-3, DIV = 100, PCT_START = 0.1, weight decay 0.05.

The rate starts at LR / DIV = 3e-5, is 3e-3 after a tenth of the training and falls to 3e-9. All else is one-cycle's.
"""

_base_ = "./one-cycle.py"

optim_wrapper = dict(optimizer=dict(lr=3e-5, weight_decay=0.05))
param_scheduler = [
    dict(type="PhaseCosineLR", phase=(0.0, 0.1), eta_min_ratio=100, by_epoch=True, convert_to_iter_based=True),
    dict(type="PhaseCosineLR", phase=(0.1, 1.0), eta_min_ratio=1e-4, by_epoch=True, convert_to_iter_based=True),
    dict(type="PhaseCosineMomentum", phase=(0.0, 0.1), eta_min=0.85, by_epoch=True, convert_to_iter_based=True),
    dict(type="PhaseCosineMomentum", phase=(0.1, 1.0), eta_min=0.95, by_epoch=True, convert_to_iter_based=True),
]
