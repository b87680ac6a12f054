// Between Python and the worker: one request at a time, each with its own time limit. The work is done in a
// worker, so that this thread can always say that it takes too long.

const worker = new Worker('worker.mjs', { type: 'module' });
let pending = null;
let dead = null;

worker.onmessage = ({ data }) => {
  if (pending) {
    pending(data);
    pending = null;
  }
};
worker.onerror = (event) => {
  dead = event.message || 'the worker could not be started';
  if (pending) {
    pending({ error: dead, kind: 'worker' });
    pending = null;
  }
};

/** Ask the worker. Resolves to `{value}`, or to `{error, kind}` with the browser's own words. */
globalThis.hwbench = (operation, argument, limitMs) =>
  new Promise((resolve) => {
    if (dead) {
      resolve({ error: dead, kind: 'worker' });
      return;
    }
    const timer = setTimeout(() => {
      pending = null;
      dead = `no answer to ${operation} within ${limitMs / 1000} s`;
      worker.terminate();
      resolve({ error: dead, kind: 'timeout' });
    }, limitMs);
    pending = (answer) => {
      clearTimeout(timer);
      resolve(answer);
    };
    worker.postMessage({ operation, argument });
  });
