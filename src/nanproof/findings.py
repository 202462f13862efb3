"""Findings: hazards located in a model, under stable codes.

A code is one record (:class:`Kind`): what it means, why it is bad, an example, the fix. The docs page and the reports
print the same record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nanproof.program import Op, Source

__all__ = ["KINDS", "Finding", "Kind"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a finding code stands for."""

    code: str
    name: str
    what: str
    why: str
    example: str
    fix: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One hazard at one place.

    Attributes:
        code: Key of :data:`KINDS`.
        op: Name of the MIL op, as it is called in the float32 program.
        op_type: Its MIL type.
        detail: What was found there, with the values that did it.
        remedy: What the conversion did about it.
        source: The line of the user's code, where it is known.
    """

    code: str
    op: str
    op_type: str
    detail: str
    remedy: str = ""
    source: Source | None = None

    @classmethod
    def at(cls, code: str, op: Op, detail: str, remedy: str = "") -> Finding:
        """A finding at an op."""
        return cls(code, op.name, op.type, detail, remedy, op.source)

    @property
    def kind(self) -> Kind:
        """The record of the code."""
        return KINDS[self.code]


KINDS: Mapping[str, Kind] = {
    kind.code: kind
    for kind in (
        Kind(
            "NP101",
            "mask-sentinel",
            "A constant that stands for minus infinity in an attention mask lies beyond the FP16 range, or so near to "
            "its end that one addition leaves it.",
            "It becomes -inf in FP16. A row of the softmax that is masked everywhere is then NaN, and `0 * -inf` is "
            "NaN for every token, padded or not.",
            "scores + (1.0 - mask) * torch.finfo(torch.float32).min",
            "Use a finite number with head-room (-3e4), so that mask + score and mask + mask stay in range.",
        ),
        Kind(
            "NP102",
            "clip-bound",
            "A bound of clip, maximum or minimum lies beyond the FP16 range.",
            "It becomes infinite in FP16: the operation no longer guarantees a finite result, and arithmetic with the "
            "bound makes NaN.",
            "x.clamp(torch.finfo(torch.float32).min, torch.finfo(torch.float32).max)",
            "Bound at ±65504, the largest FP16 number: no FP16 number lies outside.",
        ),
        Kind(
            "NP103",
            "constant-overflow",
            "A weight or constant lies beyond the FP16 range.",
            "It becomes infinite in FP16, and so does most of what is computed from it.",
            "x @ weight, where weight.abs().max() > 65504",
            "Keep the operation in FP32, or scale the weight and scale the result back.",
        ),
        Kind(
            "NP110",
            "activation-overflow",
            "A value computed from the given inputs lies beyond the FP16 range.",
            "It becomes infinite in FP16; inf - inf, 0 * inf and inf / inf are NaN.",
            "a residual stream that grows beyond 65504; x.pow(2) of |x| > 256",
            "Keep the operations that read or write the value in FP32, or scale the values down.",
        ),
        Kind(
            "NP111",
            "square-overflow",
            "The square of a value, or a sum of squares, leaves the FP16 range: in an RMS norm, a layer norm that is "
            "written out, a variance, an L2 norm, a power spectrum.",
            "FP16 squares overflow from 256 on. The norm is then infinite, its inverse 0, and whole rows silently "
            "become zero.",
            "x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps), where x.abs().max() > 256",
            "Divide x by a power of two first, and the epsilon by its square: the norm is the same.",
        ),
        Kind(
            "NP112",
            "product-overflow",
            "A sum of products (matmul, linear, conv) leaves the FP16 range, or on the Neural Engine the 2^15 at which "
            "its accumulator ends.",
            "Attention scores are scaled after the product, feed-forward layers of models trained in bfloat16 reach "
            "10^5: Inf, and NaN in the softmax or norm behind it.",
            "(q @ k.mT) * d**-0.5, where q @ k.mT exceeds 65504",
            "Scale an operand or the weight before the product: (q * d**-0.5) @ k.mT.",
        ),
        Kind(
            "NP113",
            "reduction-overflow",
            "A sum, or the sum inside of a mean, over many elements leaves the FP16 range.",
            "It becomes infinite although the mean that follows would be small.",
            "x.sum(dim=(2, 3)) / n over a 224 x 224 map",
            "Divide before summing, or take the mean in two steps.",
        ),
        Kind(
            "NP114",
            "sum-overflow",
            "The sum of two tensors leaves the FP16 range: a residual stream that grows from layer to layer.",
            "Models that were trained in bfloat16 reach 10^5 in their residual stream (T5, Gemma 3); the norm behind "
            "it divides Inf by Inf.",
            "x = x + self.down(h), block after block",
            "Carry the stream divided by a power of two: norms do not see the scale, weights absorb it.",
        ),
        Kind(
            "NP115",
            "exponential-overflow",
            "An exponential overflows in FP16 (from 11.09 on) on the way to a result that fits: softplus, mish, a "
            "log-sum-exp, a tanh that is written out, or exp(x) * mask.",
            "log(Inf) is Inf, Inf / Inf and Inf * 0 are NaN. The Neural Engine's own softplus is 0 from 10.4 on.",
            "torch.log(1 + torch.exp(x)); torch.exp(g[:, None] - g[None, :]) * causal",
            "Take the exponential of what is never above 0: max(x, 0) + log(1 + exp(-|x|)), x - max(x), or mask first.",
        ),
        Kind(
            "NP116",
            "log-softmax-underflow",
            "The logarithm of a softmax whose small probabilities FP16 rounds to 0.",
            "log(0) is -Inf: the scores of all classes but the likely ones are lost, and beam search with them.",
            "torch.log(torch.softmax(x, -1))",
            "torch.log_softmax(x, -1), or x - max(x) - log(sum(exp(x - max(x)))).",
        ),
        Kind(
            "NP117",
            "epsilon-underflow",
            "An epsilon below the normal FP16 numbers (6.1e-5) that keeps a logarithm from 0.",
            "It rounds to 0 or to another number: log(1e-8) is -18.4, and -16.6 or -Inf in FP16.",
            "torch.log(p + 1e-8)",
            "A larger epsilon, or scale both: log(2**13 * p + 2**13 * 1e-8) - 13 * log(2).",
        ),
        Kind(
            "NP118",
            "underflow",
            "A value that matters is below the FP16 range and rounds to 0, or to one of the few numbers below 6.1e-5.",
            "What follows divides by it, takes its logarithm or makes it large again: Inf, NaN, or a wrong number.",
            "num / (re * re + im * im), where re and im are about 1e-4",
            "Scale the values up by a power of two before they are squared or multiplied, or keep the operations FP32.",
        ),
        Kind(
            "NP120",
            "non-finite-birth",
            "When the converted program ran, an operation made Inf or NaN of finite operands where FP32 is finite.",
            "Inf and NaN spread through everything that is computed from them.",
            "any of the above, met while the written file was executed",
            "Keep the operation in FP32.",
        ),
        Kind(
            "NP121",
            "accuracy-loss",
            "Rounding to FP16 here makes an output wrong, although everything stays finite.",
            "FP16 has 11 bits: whole numbers end at 2048, an angle of 2000 is known to 1, a coordinate of a map 2048 "
            "wide to half a pixel; a small step added to a large number is lost; a tie is decided otherwise.",
            "torch.sin(positions * frequency); distances.argmin(-1); level + 3e-4 * (x - level)",
            "Keep the operation in FP32, or compute with smaller numbers: positions from a table, differences first.",
        ),
        Kind(
            "NP130",
            "author-fp32",
            "The module's own code computes here in float32, whatever its weights are: it casts to float32 and back, "
            "or asks for it with dtype=.",
            "In a float32 module such a cast does nothing, so that a converter cannot see it in the graph, and makes "
            "FP16 of what its author wanted in FP32: an RMSNorm squares activations of 300, and is zero.",
            "hidden_states = hidden_states.to(torch.float32)",
            "Nothing: the operations stay FP32, and do not count as those that nanproof added.",
        ),
        Kind(
            "NP131",
            "author-fp32-unknown",
            "The module casts to float32, but a copy of it in half precision, which shows which of its operations the "
            "casts are for, cannot be captured.",
            "The author's FP32 may be lost. Overflow that the given inputs show is found in any case.",
            "y = x.float() @ self.weight, which fails for a weight in half precision",
            "Make the module run in half precision: module.half(), with half inputs. Or give inputs at their largest.",
        ),
        Kind(
            "NP132",
            "file-fp32",
            "An FP16 package computes here in FP32.",
            "Whoever made the package wanted it, or its deployment target has the operation in no other precision: an "
            "FP32 that the model's author asked for cannot be told from any other.",
            "a package made with FP16ComputePrecision(op_selector=...)",
            "Nothing: the operations stay FP32, and do not count as those that nanproof added.",
        ),
        Kind(
            "NP141",
            "absorbed-term",
            "A term of a sum is so small beside the other that the sum does not change: a running state that no longer "
            "moves, a small number that is added to a large one and matters later.",
            "FP16 has 11 bits: 2048 + 0.5 is 2048. An accumulation stalls, and what should have been kept is erased, "
            "although every number is finite.",
            "level = level + 0.001 * (x - level), step by step",
            "Keep the sum and its state in FP32, add larger pieces at a time, or keep the small part in a tensor "
            "of its own.",
        ),
        Kind(
            "NP142",
            "accumulated-rounding",
            "A sum of many terms is further off than storing its result explains: the unit adds up in FP16.",
            "Once a partial sum is near 2048, each term loses its low bits.",
            "x.sum(-1) or a linear layer over thousands of numbers of one sign, on a CPU",
            "Sum in FP32, or in two steps over fewer numbers each.",
        ),
        Kind(
            "NP143",
            "cancellation",
            "Two nearly equal numbers are subtracted: what remains is their rounding.",
            "The relative error of the difference is as many times larger as the numbers are than their difference.",
            "x.pow(2).mean() - x.mean().pow(2); r1 * i0 - r0 * i1",
            "Compute the difference directly ((x - mean).pow(2)), or keep the operands and the difference in FP32.",
        ),
        Kind(
            "NP144",
            "decision-flip",
            "A decision (round, argmax, a comparison, a branch, a cast to whole numbers) comes out otherwise, since "
            "the numbers before it are rounded.",
            "The smallest error becomes a whole step: another code, another index, another branch.",
            "codes = torch.round(latents); ids = distances.argmin(-1)",
            "Keep what the decision depends on in FP32, from where its numbers lose bits.",
        ),
        Kind(
            "NP145",
            "coarse-argument",
            "An operation gets an argument of which one FP16 step changes its result by much: the sine of a large "
            "angle, a sampling position in a wide image.",
            "Between 512 and 1024 one FP16 step is 0.5: the angle is lost. A normalised coordinate near 1 has steps of "
            "2^-11, half a pixel of 2048.",
            "torch.sin(positions * 2 * math.pi); F.grid_sample(image, grid)",
            "Reduce the argument first (phase - floor(phase)), take the values from a table, or keep the argument in "
            "FP32.",
        ),
        Kind(
            "NP146",
            "amplified-rounding",
            "An operation makes a relative error that is ordinary in FP16 many times larger.",
            "The result has fewer bits than FP16 could hold.",
            "torch.exp(x) of large x; 1 / (1 - p) with p near 1",
            "Keep the operands of the operation in FP32, or write it in terms of what is small (log1p, expm1).",
        ),
        Kind(
            "NP147",
            "integer-precision",
            "Whole numbers beyond 2048 become FP16, which has only every second, fourth, ... of them.",
            "Odd positions, ids and counts do not exist any more; equality, modulo and angles of them are wrong.",
            "positions = torch.arange(4096).float()",
            "Keep integers integers until they are small, or keep the operations on them in FP32.",
        ),
        Kind(
            "NP148",
            "integer-narrowing",
            "Whole numbers are cast to 16 bits and wrap around.",
            "An id of 40,000 becomes -25,536, and names something else.",
            "labels.gather(1, indices), where the labels are ids above 32,767, converted by coremltools alone",
            "Convert with nanproof, which casts only what fits; or look the values up in FP32.",
        ),
        Kind(
            "NP149",
            "rounding-adds-up",
            "The outputs are off although no single operation is: ordinary rounding adds up over many of them.",
            "Every FP16 result is rounded to 11 bits. A long chain, or a tolerance that is small, makes that visible.",
            "forty layers, one after the other, with a tolerance of 1e-4",
            "Keep the last layers, or the residual stream, in FP32; or allow a larger tolerance.",
        ),
        Kind(
            "NP150",
            "inexact-operation",
            "The unit computes an operation by a method of its own that is wrong here, or overflows inside of it.",
            "The result is finite and looks like a number.",
            "F.softplus(x) for x > 10.4 on a Neural Engine, which returns 0",
            "Write the operation in another way, or keep it off the unit by keeping it in FP32.",
        ),
        Kind(
            "NP201",
            "lowering-changed-result",
            "On the given inputs the converted program computes something else than PyTorch, even in float32.",
            "No precision can repair it: coremltools lowered an operator to something else, or one of its passes "
            "changed the program.",
            "an operator that coremltools' lowering knows under the same name, with another meaning",
            "Write the operation in another way, and check the FP32 program with `nanproof.compare`.",
        ),
        Kind(
            "NP202",
            "pass-changed-result",
            "A graph pass of coremltools changed what the program computes, beyond rounding.",
            "No precision can repair it. Passes are meant to make a program smaller, not another one.",
            "y = constant / conv(x), where 'common::fuse_conv_scale' loses the division",
            "Leave the pass out: coremltools.PassPipeline.remove_passes({name}). nanproof.convert does so by itself.",
        ),
        Kind(
            "NP301",
            "state-start",
            "A buffer that became a state of the Core ML model does not begin with zeros.",
            "Core ML makes every state of zeros, so that the first call computes something else than PyTorch.",
            "self.register_buffer('average', torch.ones(8)), where forward changes it in place",
            "Write the values into each new state (MLState.write_state), or let the buffer begin with zeros.",
        ),
        Kind(
            "NP401",
            "infinite-constant",
            "An FP16 constant of a package is infinite: its value was beyond 1e38, such as the smallest float32 number "
            "of a mask, or truly infinite.",
            "`0 * -inf` is NaN, and so is a row of a softmax that is -inf everywhere.",
            "(1.0 - mask) * torch.finfo(torch.float32).min, converted to FP16",
            "`nanproof repair` takes it for a huge finite number, and makes that safe as in any conversion.",
        ),
        Kind(
            "NP402",
            "lost-constant",
            "A weight in a package is Inf or NaN.",
            "What it was before cannot be known, so that nothing can be said about a repair.",
            "a weight that overflowed when constants were folded in FP16",
            "Convert the model from its source again.",
        ),
        Kind(
            "NP403",
            "smallest-constant",
            "An FP16 constant of a package is the smallest FP16 number, 6e-8. coremltools puts it in the place of "
            "constants that FP16 would round to 0, such as an epsilon of 1e-12.",
            "The epsilon is larger than its author wrote: log(1e-10) is -23, and log(6e-8) is -16.6.",
            "torch.log(p + 1e-10), converted to FP16",
            "Convert from the source, if values that small matter: nanproof keeps or scales the epsilon there.",
        ),
    )
}
