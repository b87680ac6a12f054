// One onnxruntime-web session, its inputs, and the clock around its runs. Python decides what is run and when;
// what is said here is a claim until the clock of the process that started the browser bounds it.

import * as ort from './ort/ort.webgpu.min.mjs';

ort.env.wasm.wasmPaths = new URL('./ort/', import.meta.url).href;
ort.env.wasm.proxy = false;

const TYPES = { int64: BigInt64Array, int32: Int32Array, float32: Float32Array };

let log = null;
for (const level of ['log', 'info', 'warn', 'error', 'debug']) {
  const original = console[level].bind(console);
  console[level] = (...words) => (log ? log.push(words.map(String).join(' ')) : original(...words));
}

const state = { session: null, slots: [], last: [], samples: [] };

async function fetchBytes(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: HTTP ${answer.status}`);
  return answer.arrayBuffer();
}

/** What the browser says of the WebGPU adapter that it would grant. */
async function adapter() {
  if (!('gpu' in navigator)) return { missing: 'navigator.gpu is not there: this browser has no WebGPU' };
  const found = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!found) return { missing: 'requestAdapter() gave null: no adapter, neither hardware nor software' };
  const { info } = found;
  const said = {};
  for (const name of ['vendor', 'architecture', 'device', 'description', 'type', 'backend', 'driver']) {
    if (typeof info[name] === 'string') said[name] = info[name];
  }
  const flag = 'isFallbackAdapter' in info ? info.isFallbackAdapter : found.isFallbackAdapter;
  return {
    info: said,
    isFallbackAdapter: typeof flag === 'boolean' ? flag : null,
    features: [...found.features].sort(),
    limits: { maxBufferSize: found.limits.maxBufferSize },
  };
}

/** Whether the browser grants a WebNN context of that device type, and what it says of it. */
async function context(deviceType) {
  if (!('ml' in navigator)) return { missing: 'navigator.ml is not there: this browser has no WebNN' };
  try {
    const granted = await navigator.ml.createContext({ deviceType });
    const said = {};
    for (const name of ['deviceType', 'accelerated', 'powerPreference']) {
      if (name in granted) said[name] = String(granted[name]);
    }
    granted.destroy?.();
    return { said };
  } catch (error) {
    return { missing: `createContext({deviceType: '${deviceType}'}): ${error.name}: ${error.message}` };
  }
}

function provider({ platform, deviceType }) {
  if (platform === 'webnn') return { name: 'webnn', deviceType };
  if (platform === 'webgpu') return { name: 'webgpu' };
  return { name: 'wasm' };
}

async function create(options, verbose) {
  ort.env.wasm.numThreads = options.threads;
  if (options.webgpuFeatures?.length) addFeatures(options.webgpuFeatures);
  const bytes = new Uint8Array(await fetchBytes(options.model));
  const begin = performance.now();
  const session = await ort.InferenceSession.create(bytes, {
    executionProviders: [provider(options)],
    logSeverityLevel: verbose ? 0 : 3,
    logVerbosityLevel: 0,
    graphOptimizationLevel: 'all',
  });
  return { session, ms: performance.now() - begin };
}

let featuresAdded = false;
/** onnxruntime requests its own device: ask for timestamp queries with it. */
function addFeatures(names) {
  if (featuresAdded) return;
  featuresAdded = true;
  const original = GPUAdapter.prototype.requestDevice;
  GPUAdapter.prototype.requestDevice = function requestDevice(descriptor = {}) {
    const wanted = new Set([...(descriptor.requiredFeatures ?? []), ...names.filter((n) => this.features.has(n))]);
    return original.call(this, { ...descriptor, requiredFeatures: [...wanted] });
  };
}

const operations = {
  clock: () => ({ isolated: globalThis.crossOriginIsolated, now: performance.now() }),
  adapter,
  context,

  /** A session that says where its nodes are placed: the log's lines. It is released at once. */
  async placement(options) {
    log = [];
    try {
      const { session } = await create(options, true);
      await session.release();
      return log;
    } finally {
      log = null;
    }
  },

  async load(options) {
    if (state.session) await state.session.release();
    const { session, ms } = await create(options, false);
    Object.assign(state, { session, slots: [], last: [] });
    return { ms, inputs: session.inputNames, outputs: session.outputNames };
  },

  async stage(slots) {
    state.slots = [];
    state.last = [];
    for (const slot of slots) {
      const feeds = {};
      for (const { name, type, shape, path } of slot) {
        feeds[name] = new ort.Tensor(type, new TYPES[type](await fetchBytes(path)), shape);
      }
      state.slots.push(feeds);
    }
    return state.slots.length;
  },

  /** One inference, its outputs read back: milliseconds. */
  async run(slot) {
    const begin = performance.now();
    const outputs = await state.session.run(state.slots[slot]);
    const ms = performance.now() - begin;
    state.last[slot] = outputs;
    return ms;
  },

  /** The timed window. Inputs alternate between the slots; the last output of each is kept. The samples are
   *  sent when they are asked for, so that sending them is in nobody's window. */
  async window({ seconds, minSamples, runsPerSample }) {
    const { session, slots, last } = state;
    const samples = [];
    const begin = performance.now();
    const deadline = begin + seconds * 1000;
    let slot = 0;
    let left = minSamples;
    for (;;) {
      const start = performance.now();
      for (let i = 0; i < runsPerSample; i++) {
        last[slot] = await session.run(slots[slot]);
        slot = slot + 1 < slots.length ? slot + 1 : 0;
      }
      const stop = performance.now();
      samples.push(stop - start);
      left -= 1;
      if (left <= 0 && stop >= deadline) {
        state.samples = samples;
        return performance.now() - begin;
      }
    }
  },

  /** Send the window's samples in ms, as float64. */
  async samples(path) {
    const answer = await fetch(path, { method: 'POST', body: Float64Array.from(state.samples) });
    if (!answer.ok) throw new Error(`${path}: HTTP ${answer.status}`);
    return state.samples.length;
  },

  /** Send what the last run of a slot gave, raw. */
  async outputs({ slot, names, path }) {
    const described = [];
    for (const name of names) {
      const tensor = state.last[slot][name];
      const data = await tensor.getData();
      const answer = await fetch(`${path}/${described.length}`, { method: 'POST', body: data });
      if (!answer.ok) throw new Error(`${path}: HTTP ${answer.status}`);
      described.push({ name, type: tensor.type, shape: [...tensor.dims] });
    }
    return described;
  },

  /** One inference with the browser's own calls counted and, where the device has them, GPU time stamps. */
  async witness() {
    const seen = { dispatchWorkgroups: 0, submit: 0, mlDispatch: 0, gpuBusyNs: null };
    const restore = [];
    const wrap = (type, name, around) => {
      if (!type?.prototype?.[name]) return;
      const original = type.prototype[name];
      type.prototype[name] = around(original);
      restore.push(() => {
        type.prototype[name] = original;
      });
    };
    const count = (key) => (original) =>
      function counted(...words) {
        seen[key] += 1;
        return original.apply(this, words);
      };
    wrap(globalThis.GPUComputePassEncoder, 'dispatchWorkgroups', count('dispatchWorkgroups'));
    wrap(globalThis.GPUComputePassEncoder, 'dispatchWorkgroupsIndirect', count('dispatchWorkgroups'));
    wrap(globalThis.GPUQueue, 'submit', count('submit'));
    wrap(globalThis.MLContext, 'dispatch', count('mlDispatch'));
    const stamps = stamping(wrap);
    try {
      const begin = performance.now();
      await state.session.run(state.slots[0]);
      seen.ms = performance.now() - begin;
    } finally {
      for (const undo of restore) undo();
    }
    seen.gpuBusyNs = await stamps();
    return seen;
  },
};

/** Time stamps around every compute pass; returns a function that reads the sum in ns, or null. */
function stamping(wrap) {
  const MOST = 2048;
  let device = null;
  let set = null;
  let used = 0;
  let dropped = false;
  wrap(globalThis.GPUDevice, 'createCommandEncoder', (original) =>
    function create(...words) {
      if (!device && this.features.has('timestamp-query')) {
        device = this;
        set = this.createQuerySet({ type: 'timestamp', count: MOST });
      }
      return original.apply(this, words);
    });
  wrap(globalThis.GPUCommandEncoder, 'beginComputePass', (original) =>
    function begin(descriptor = {}) {
      if (!set || descriptor.timestampWrites) return original.call(this, descriptor);
      if (used + 2 > MOST) {
        dropped = true;
        return original.call(this, descriptor);
      }
      const writes = { querySet: set, beginningOfPassWriteIndex: used, endOfPassWriteIndex: used + 1 };
      used += 2;
      return original.call(this, { ...descriptor, timestampWrites: writes });
    });
  return async () => {
    if (!device || used === 0 || dropped) return null;
    const size = used * 8;
    const resolved = device.createBuffer({ size, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC });
    const read = device.createBuffer({ size, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ });
    const encoder = device.createCommandEncoder();
    encoder.resolveQuerySet(set, 0, used, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, read, 0, size);
    device.queue.submit([encoder.finish()]);
    await read.mapAsync(GPUMapMode.READ);
    const stamps = new BigInt64Array(read.getMappedRange().slice(0));
    read.unmap();
    for (const thing of [resolved, read, set]) thing.destroy();
    let busy = 0n;
    for (let i = 0; i < stamps.length; i += 2) busy += stamps[i + 1] - stamps[i];
    return Number(busy);
  };
}

self.onmessage = async ({ data: { operation, argument } }) => {
  try {
    self.postMessage({ value: await operations[operation](argument) });
  } catch (error) {
    self.postMessage({ error: `${error?.message ?? error}`, kind: error?.name ?? typeof error });
  }
};
