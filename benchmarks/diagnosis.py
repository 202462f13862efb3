"""Does the first finding of a diagnosis name the op and the line that a hazard's notes name, and what does it cost?

    python benchmarks/diagnosis.py [--json FILE] [NAME ...]

Each hazardous case of the shared test material (`../shared/hazards`, or where NANPROOF_SHARED names the folder around
it) is converted to FP16 as coremltools types it and diagnosed on its stress inputs, under the unit that its rule names.
What the notes name is written down below, by somebody who has read them: the MIL types that the op may have, and
pieces of its line of code. A case is `not broken` where the outputs of that conversion are within its tolerance: there
is nothing to diagnose then, since nanproof's lowerings, or what coremltools keeps FP32, avoid the hazard. Twins
must have no finding. Without the material the script says so and ends with 3, which is no pass.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import nanproof
from nanproof.errors import NanproofError

SHARED = Path(os.environ.get("NANPROOF_SHARED") or Path(__file__).resolve().parents[2] / "shared").resolve()
UNITS = {
    "ane_acc15": "ane",
    "ane_softplus": "ane",
    "ane_logsumexp": "ane",
    "ane_round": "ane",
    "ftz": "ane_pessimistic",
    "fp16_accum": "cpu",
}

# What the notes of each case name: MIL types of the op, and pieces of its line.
NAMED: dict[str, tuple[str, str]] = {
    "accum_wide_head": ("conv linear matmul", "head"),
    "ane_logit_range": ("linear matmul", "self.head"),
    "attn_qk_unet": ("matmul", "torch.bmm(q"),
    "attn_window_bias": ("matmul", "einsum"),
    "branch_atan2_phase": ("sub atan2 atan", "i1 * r0 - r1 * i0|atan2"),
    "branch_fsq_round": ("round", "torch.round"),
    "cast_float_islands": ("pow mul square", "pow(2)"),
    "clip_nan_to_num_mask": ("select clip", "nan_to_num"),
    "clip_precision_weights": ("clip minimum", "max=1e10"),
    "combo_speech_encoder": ("log add select pow square mul", "1e-9|1e9|torch.square"),
    "coord_strip_warp": ("resample add mul sub", "grid"),
    "decision_vq_codebook": ("reduce_argmin argmin", "argmin"),
    "div_complex_mask": ("mul add real_div", "den"),
    "div_linear_attention": ("matmul real_div", "matmul(kv, q)|out[:, :, -1:]"),
    "drift_level_follower": ("add", "level + self.rate"),
    "eps_layernorm_keras": ("add sqrt real_div rsqrt layer_norm", "eps"),
    "eps_log_floor": ("add log", "1e-8"),
    "eps_normalize_empty_text": ("clip maximum real_div", "normalize|1e-12"),
    "epsdist_reciprocal_small": ("inverse real_div", "reciprocal"),
    "exp_density_softplus": ("exp softplus", "softplus|exp"),
    "exp_mish_board_net": ("softplus", "mish"),
    "exp_tanh_ratio": ("exp", "ratio_tanh|exp"),
    "expmask_gated_delta": ("exp", "torch.exp"),
    "ftz_dim_patch_norm": ("add mul reduce_mean square sqrt rsqrt", "mean|eps|sqrt"),
    "hf_bert_eager_padding": ("select add mul", "mask"),
    "hf_gemma3_hidden_residual": ("pow mul square", "_norm"),
    "hf_t5_residual": ("linear matmul add", "self.wo|hidden_states +"),
    "infmask_extended_mask": ("mul", "finfo"),
    "infmask_two_planes": ("add", "plane"),
    "int16_label_lookup": ("gather_along_axis gather cast", "gather"),
    "intfloat_clamp_index": ("clip cast gather", "clamp"),
    "intprec_segment_compare": ("cast mod floor_div floor sub mul equal", "pos"),
    "linear_gated_ffn": ("linear", "self.wo"),
    "linear_vae_decoder": ("conv", "conv"),
    "logmel_int16_frontend": ("clip log mul square", "min=1e-10|re * re"),
    "logsoftmax_explicit_ctc": ("log softmax", "torch.softmax|torch.log"),
    "logsoftmax_op_classifier": ("log softmax", "log_softmax"),
    "lse_crf_forward": ("exp", "torch.exp(alpha"),
    "mask_fill_padded_query": ("select", "masked_fill"),
    "mask_local_window_padding": ("select", "window_bias|finfo"),
    "miscompile_const_over_conv": ("real_div conv mul", "/"),
    "miscompile_residual_alpha": ("add sub", "alpha"),
    "order_int8_dequant": ("mul", "acc * dscale"),
    "phase_nsf_source": ("cumsum mul sin", "cumsum|torch.sin"),
    "pow_charbonnier": ("pow", "torch.pow"),
    "quant_dynamic_zero_token": ("clip real_div maximum", "1e-8|scale"),
    "reduce_bright_pool": ("reduce_sum", "x.sum"),
    "reduce_cosine_product": ("mul", "aa * bb"),
    "residual_gemma_postnorm": ("add", "x + self.post"),
    "sumsq_embedding_l2": ("reduce_l2_norm reduce_sum_square square mul", "normalize|norm"),
    "sumsq_llama_rmsnorm": ("pow mul square", "pow(2)"),
    "trig_rope_positions": ("cast mul sin cos", "ang"),
    "variance_bn_running": ("batch_norm add sqrt rsqrt real_div", "bn|running_var"),
    "variance_group_norm_lowered": ("square mul reduce_mean", "self.gn"),
    "variance_instance_style": ("square mul reduce_mean instance_norm", "instance_norm"),
    "weight_folded_dead_channel": ("conv mul batch_norm", "conv|scale"),
    "weight_tps_rectifier": ("matmul linear", "self.inverse"),
}


@dataclass(frozen=True)
class Row:
    """One case: the first finding, whether it names what the notes name, and what it cost in executions."""

    name: str
    twin: bool
    unit: str
    broken: bool
    named: bool
    code: str
    op_type: str
    line: str
    cures: bool | None
    executions: float
    seconds: float
    failure: str = ""


def measure(case: Any) -> Row:
    """Diagnose a case."""
    unit, start = UNITS.get(case.rule, "gpu"), time.perf_counter()
    twin = bool(case.twin_of)
    try:
        found = nanproof.diagnose(
            case.module, [tuple(i) for i in case.stress_inputs], numerics=unit, tolerance=case.tolerance
        )
    except (NanproofError, RuntimeError, TypeError) as error:
        text = str(error).strip().splitlines()[0]
        return Row(case.name, twin, unit, True, False, "", "", "", None, 0, time.perf_counter() - start, text)
    seconds = time.perf_counter() - start
    if not found.culprits:
        return Row(case.name, twin, unit, bool(found.damaged), False, "", "", "", None, found.executions, seconds)
    first = found.culprits[0].finding
    line = first.source.code if first.source is not None else ""
    types, pieces = NAMED.get(case.name, ("", "\0"))
    named = first.op_type in types.split() and any(piece in line for piece in pieces.split("|"))
    cures, cost = found.culprits[0].cures, found.executions
    return Row(case.name, twin, unit, True, named, first.code, first.op_type, line, cures, cost, seconds)


def _print(row: Row) -> None:
    said = "named" if row.named else "not broken" if not row.broken else "OTHER"
    if row.twin:
        said = "twin, FOUND" if row.code else "twin"
    cured = "" if row.cures is None else "  cured" if row.cures else "  not cured alone"
    print(
        f"{said:11s} {row.name:30s} {row.unit:5s} {row.code:6s} {row.op_type:14s} {row.executions:4.1f} executions"
        f"{cured}  {row.line[:60] or row.failure[:90]}",
        flush=True,
    )


def main() -> int:
    """Measure and print; 0 if all was measured, 3 if it could not be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="cases; all without")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    given = parser.parse_args()
    if not (SHARED / "hazards").is_dir():
        print(f"skipped: needs the shared test material, and {SHARED / 'hazards'} is no folder (set NANPROOF_SHARED)")
        return 3
    sys.path.insert(0, str(SHARED))
    warnings.simplefilter("ignore")
    import hazards

    rows: list[Row] = []
    for name in given.names or hazards.names():
        rows.append(measure(hazards.load(name)))
        _print(rows[-1])
    cases, twins = [r for r in rows if not r.twin], [r for r in rows if r.twin]
    broken = [r for r in cases if r.broken]
    named = sum(r.named for r in broken)
    print(f"hazards: {len(cases)}, of which {len(broken)} break; named by the first finding: {named} of {len(broken)}")
    print(f"twins with a finding: {sum(bool(r.code) for r in twins)} of {len(twins)}")
    costs = sorted(r.executions for r in rows if r.executions)
    if costs:
        print(f"executions: median {costs[len(costs) // 2]:.2f}, largest {costs[-1]:.2f}")
    if given.json:
        given.json.write_text(json.dumps([asdict(r) for r in rows], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
