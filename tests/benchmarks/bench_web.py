"""What hwbench's harness costs in a browser, beside the same loop written straight into a page.

``python -m tests.benchmarks.bench_web [--browser PATH] [--platform webgpu|webnn|wasm]``: both loops run bert-tiny with
random weights in one browser, in turns; the harness's has a worker, slots, kept outputs and Python around it. ``wasm``
is onnxruntime-web's own CPU part, a baseline of its own and never a platform.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

from hwbench_mlflow.backends import _browser, _onnx, _web, webgpu, webnn
from hwbench_mlflow.backends._reference import example_arrays
from hwbench_mlflow.model import WeightsPolicy, Workload
from hwbench_mlflow.workloads.build import load

ROUNDS = 5
SECONDS = 3.0

DIRECT = """async ([runtime, model, provider, feeds, seconds]) => {
  if (!globalThis.direct) {
    const ort = await import(runtime + 'ort.webgpu.min.mjs');
    ort.env.wasm.wasmPaths = runtime;
    ort.env.wasm.numThreads = 1;
    const bytes = new Uint8Array(await (await fetch(model)).arrayBuffer());
    const session = await ort.InferenceSession.create(bytes, { executionProviders: [provider] });
    const inputs = {};
    for (const { name, type, shape, path } of feeds) {
      const Type = { int64: BigInt64Array, float32: Float32Array }[type];
      inputs[name] = new ort.Tensor(type, new Type(await (await fetch(path)).arrayBuffer()), shape);
    }
    globalThis.direct = { session, inputs };
  }
  const { session, inputs } = globalThis.direct;
  const samples = [];
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end) {
    const begin = performance.now();
    await session.run(inputs);
    samples.push(performance.now() - begin);
  }
  return samples;
}"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--browser")
    parser.add_argument("--platform", choices=["webgpu", "webnn", "wasm"], default="webgpu")
    asked = parser.parse_args()
    if asked.browser:
        os.environ[_browser.BROWSER_VARIABLE] = asked.browser
    model = load(Workload(model="bert-tiny", weights=WeightsPolicy.RANDOM), ask_hub=False)
    graph = _onnx.export(model, model.workload)
    begin = time.perf_counter()
    with _browser.open_page((*webgpu.ARGUMENTS, *webnn.ARGUMENTS)) as page:
        started = time.perf_counter() - begin
        page.files.files["model.onnx"] = graph.path
        feeds = _web._feeds(page, 0, example_arrays(graph.inputs))
        begin = time.perf_counter()
        page.ask("load", {"platform": asked.platform, "deviceType": "cpu", "threads": 1, "model": "model.onnx"})
        loaded = time.perf_counter() - begin
        page.ask("stage", [feeds])
        provider: Any = {"name": asked.platform} | ({"deviceType": "cpu"} if asked.platform == "webnn" else {})
        url = page._page.url
        ours: list[float] = []
        direct: list[float] = []
        around: list[float] = []
        for turn in range(ROUNDS + 1):
            begin = time.perf_counter()
            wall = float(page.ask("window", {"seconds": SECONDS, "minSamples": 5, "runsPerSample": 1}))
            seen = (time.perf_counter() - begin) * 1e3 - wall
            page.ask("samples", "samples")
            import numpy as np

            samples = np.frombuffer(page.files.received.pop("samples"), dtype=np.float64).tolist()
            theirs = page._page.evaluate(DIRECT, [f"{url}ort/", f"{url}model.onnx", provider, feeds, SECONDS])
            if turn:  # the first is for what is compiled
                ours.append(statistics.median(samples))
                direct.append(statistics.median(theirs))
                around.append(seen)
    ratio = statistics.median(o / d for o, d in zip(ours, direct, strict=True))
    print(f"bert-tiny, batch 1, 128 tokens, {asked.platform}, Chromium {page.version}")
    for what, ms in (
        ("the same loop in a page, median of an inference", f"{statistics.median(direct):.3f}"),
        ("hwbench's, median of an inference", f"{statistics.median(ours):.3f}"),
        ("difference (target: below 1)", f"{statistics.median(ours) - statistics.median(direct):+.3f}"),
        ("around a window (asking, answering), once", f"{statistics.median(around):.1f}"),
        ("starting the browser and the page, once", f"{started * 1e3:.0f}"),
        ("loading the model, once", f"{loaded * 1e3:.0f}"),
    ):
        print(f"  {what:<52} {ms:>10} ms")
    print(f"  {'ratio of the medians, median of the turns':<52} {ratio:>10.3f}")


if __name__ == "__main__":
    main()
