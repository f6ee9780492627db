"""LION's blocks: published names and ours. The tables of all operators stand together, so no two rules may fit one name, on either side."""

from __future__ import annotations

from dataclasses import replace

from visionrnn.official.rules import Rule, Table

MAMBA: Table = (
    *(Rule(f"mamba.{name}.**", f"mixer.{name}.**") for name in ("in_proj", "out_proj")),
    *(Rule(f"mamba.{name}.**", f"mixer.directions.0.{name}.**") for name in ("conv1d", "x_proj", "dt_proj")),
    *(Rule(f"mamba.{name}_b.**", f"mixer.directions.1.{name}.**") for name in ("conv1d", "x_proj", "dt_proj")),
    Rule("mamba.A_log", "mixer.directions.0.A_log"),
    Rule("mamba.D", "mixer.directions.0.D"),
    Rule("mamba.A_b_log", "mixer.directions.1.A_log"),
    Rule("mamba.D_b", "mixer.directions.1.D"),
)

RWKV_TIME: Table = (
    Rule("time_maa_x", "mix_x", unit_axes=(0, 1)),
    *(Rule(f"time_maa_{name}", "mixes", unit_axes=(0, 1), part=(i, 5), stacked=True) for i, name in enumerate("wkvrg")),
    Rule("time_maa_w1", "mix_down"),
    Rule("time_maa_w2", "mix_up"),
    Rule("time_decay", "decay", unit_axes=(0, 1)),
    Rule("time_decay_w1", "decay_down"),
    Rule("time_decay_w2", "decay_up"),
    Rule("time_faaaa", "bonus"),
    Rule("receptance.**", "r_proj.**"),
    Rule("key.**", "k_proj.**"),
    Rule("value.**", "v_proj.**"),
    Rule("gate.**", "gate_proj.**"),
    Rule("output.**", "out_proj.**"),
    Rule("ln_x.**", "norm.**"),
)
RWKV_CHANNEL: Table = (
    *(Rule(f"spatial_mix_{name}", f"mix_{name}", unit_axes=(0, 1)) for name in "kr"),
    Rule("receptance.**", "r_proj.**"),
    Rule("key.**", "k_proj.**"),
    Rule("value.**", "v_proj.**"),
    Rule("key_norm.**", "key_norm.**"),
)
RWKV: Table = (
    Rule("ln0.**", "input_norm.**"),
    Rule("ln1.**", "time_norm.**"),
    Rule("ln2.**", "channel_norm.**"),
    Rule("gamma1", "time_scale"),
    Rule("gamma2", "channel_scale"),
    Rule("att.**", "time_mix.**", RWKV_TIME),
    *(replace(rule, official=f"ffn.{rule.official}", ours=f"channel_mix.{rule.ours}") for rule in RWKV_CHANNEL),
)

RETNET: Table = (
    Rule("retention_layer_norm.**", "retention_norm.**"),
    *(Rule(f"multi_scale_retention.{name}_proj.**", f"retention.{name}_proj.**") for name in "qkv"),
    Rule("multi_scale_retention.o_proj.**", "retention.out_proj.**"),
    Rule("final_layer_norm.**", "feed_forward_norm.**"),
    Rule("ffn.fc1.**", "feed_forward.0.**"),
    Rule("ffn.fc2.**", "feed_forward.2.**"),
)

MLSTM: Table = (
    Rule("proj_up.**", "up_proj.**"),
    Rule("proj_down.**", "down_proj.**"),
    Rule("conv.conv.**", "conv1d.**"),
    *(Rule(f"{name}_proj.{kind}", f"qkv_{kind}", part=(i, 3), stacked=True) for kind in ("weight", "bias") for i, name in enumerate("qkv")),
    *(Rule(f"mlstm_cell.{name}gate.{kind}", f"gates.{kind}", part=(i, 2)) for kind in ("weight", "bias") for i, name in enumerate("if")),
    Rule("mlstm_cell.outnorm.**", "norm.**"),
    Rule("learnable_skip", "skip"),
)
XLSTM_BRANCH: Table = (Rule("layer.**", "mixer.**", MLSTM),)
XLSTM: Table = (
    Rule("rowwise_from_top_left.**", "ahead.**", XLSTM_BRANCH),
    Rule("rowwise_from_bot_right.**", "back.**", XLSTM_BRANCH),
)

TTT_LINEAR: Table = (
    Rule("learnable_token_idx", "scale_offset"),
    Rule("learnable_ttt_lr_weight", "lr_proj.weight", unit_axes=(1,)),
    Rule("learnable_ttt_lr_bias", "lr_proj.bias", unit_axes=(1,)),
    *(Rule(f"ttt_norm_{kind}", f"model_norm_{kind}") for kind in ("weight", "bias")),
    Rule("W1", "model.weight"),
    Rule("b1", "model.bias", unit_axes=(1,)),
    *(Rule(f"{name}_proj.**", f"{name}_proj.**") for name in "qkv"),
    Rule("o_proj.**", "out_proj.**"),
    Rule("g_proj.**", "gate_proj.**"),
    Rule("post_norm.**", "norm.**"),
)
TTT: Table = (
    Rule("seq_norm.**", "learner_norm.**"),
    Rule("seq_modeling_block.**", "learner.**", TTT_LINEAR),
    Rule("ffn_norm.**", "glu_norm.**"),
    *(Rule(f"mlp.{name}_proj.**", f"glu.{name}_proj.**") for name in ("gate", "up", "down")),
)

BLOCKS: Table = (*MAMBA, *RWKV, *RETNET, *XLSTM, *TTT)
