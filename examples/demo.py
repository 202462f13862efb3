"""`make demo`: a model that breaks in FP16, what coremltools makes of it and what nanproof does; then real weights."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see nanproof.cli
warnings.simplefilter("ignore", FutureWarning)

import bert_classifier
import numpy as np
import sentence_embeddings
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

import nanproof
from nanproof.mil.coreml import ct, quiet  # coremltools, imported without its notes about missing macOS libraries

BUILD = Path(__file__).parent.parent / "build" / "demo"
console = Console(width=110)


def coremltools_alone(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> nanproof.Program:
    """What coremltools converts by default: FP16 throughout."""
    exported = torch.export.export(module, inputs, strict=False).run_decompositions()
    with quiet():
        model = ct.convert(exported, minimum_deployment_target=ct.target.iOS17, skip_model_load=True)
    return nanproof.load(model)


def shown(values: np.ndarray) -> Text:
    """A few numbers of an array, red if they are none."""
    text = np.array2string(values.astype(np.float32), precision=5, separator=", ", max_line_width=60)
    return Text(text, style="" if np.isfinite(values).all() else "bold red")


def breaking_bert() -> nanproof.Conversion:
    """(a) The BERT whose mask is `(1 - mask) * finfo.min`, clipped to ±3.4e38."""
    console.rule("(a) a BERT classifier with the classic mask, padded batch")
    module, inputs = bert_classifier.model()
    feeds = dict(zip(("input_ids", "attention_mask"), (t.numpy() for t in inputs), strict=True))
    expected = module(*inputs).detach().numpy()
    plain = nanproof.predict(coremltools_alone(module, inputs), feeds, numerics="gpu")
    result = nanproof.convert(module, inputs)
    ours = nanproof.predict(result.program, feeds, numerics="gpu")
    table = Table(title="logits of both texts, FP16 on 'gpu' numerics", title_justify="left")
    for heading in ("PyTorch, FP32", "coremltools alone, FP16", "nanproof, FP16"):
        table.add_column(heading)
    table.add_row(shown(expected), *(shown(next(iter(o.values()))) for o in (plain, ours)))
    console.print(table)
    for finding in result.findings:
        console.print(f"  [bold]{finding.code} {finding.kind.name}[/]: {finding.detail}; {finding.remedy}")
        if finding.source:
            console.print(
                f"    {Path(finding.source.file).name}:{finding.source.line}  {finding.source.code}", style="dim"
            )
    console.print(f"  verdict: {result.verdict}, {result.plan.fp32_ops} operations in FP32\n")
    return result


def real_weights() -> nanproof.Conversion:
    """(b) Sentence embeddings with the weights of all-MiniLM-L6-v2, on 64 pairs of English sentences."""
    console.rule("(b) all-MiniLM-L6-v2, 32 English sentences, 64 pairs")
    module, batches = sentence_embeddings.encoder(), sentence_embeddings.batches()
    start = time.perf_counter()
    result = nanproof.convert(module, batches[0], calibration=batches[1:])
    seconds = time.perf_counter() - start
    figures = sentence_embeddings.agreement(module, result.program, numerics="gpu")
    wide = [op for op in result.program.walk() if op.type in ("linear", "matmul")]
    half = sum(op.dtype is not None and op.dtype.value == "fp16" for op in wide)
    console.print(f"  verdict: {result.verdict}; converted and verified in {seconds:.1f} s")
    console.print(f"  largest cosine difference over {figures.pairs} pairs: {figures.largest_difference:.2e}")
    console.print(f"  ranking of the pairs unchanged: {'yes' if figures.swapped == 0 else 'NO'}")
    console.print(
        f"  matmul and linear operations in FP16: {half} of {len(wide)}; FP32 islands: {len(result.plan.islands)}\n"
    )
    return result


def main() -> None:
    """Run both, save both packages, and write the report of the first."""
    BUILD.mkdir(parents=True, exist_ok=True)
    broken, real = breaking_bert(), real_weights()
    console.rule("written")
    for name, result in (("bert", broken), ("minilm", real)):
        console.print(f"  {result.save(BUILD / f'{name}.mlpackage')}")
    real.report(BUILD / "minilm.html")
    console.print(f"  report: {broken.report(BUILD / 'bert.html')}", highlight=False)


if __name__ == "__main__":
    main()
