// SPDX-License-Identifier: MIT OR Apache-2.0
// exact_run.py in Node, with onnxruntime-web's WebAssembly: node exact_run.mjs NODE_MODULES DECODER.onnx BLOCKS.json OUT [LEVEL]
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const [modules, model, blocks, out, level = 'all'] = process.argv.slice(2)
const path = createRequire(join(resolve(modules), 'x')).resolve('onnxruntime-web/wasm')
const ort = (await import(pathToFileURL(path))).default
ort.env.wasm.numThreads = 1
const work = JSON.parse(readFileSync(blocks))
const session = await ort.InferenceSession.create(readFileSync(model), {
  executionProviders: ['wasm'],
  graphOptimizationLevel: level === 'none' ? 'disabled' : level,
  freeDimensionOverrides: work.dimensions,
})
const arrays = { uint8: Uint8Array, int32: Int32Array, float32: Float32Array, int64: BigInt64Array }
let reference
const frames = []
for (const block of work.blocks) {
  const feed = {}
  for (const [name, { type, shape, data }] of Object.entries(block)) {
    const bytes = new Uint8Array(Buffer.from(data, 'base64'))
    feed[name] = new ort.Tensor(type, new arrays[type](bytes.buffer), shape)
  }
  if (reference) feed['dec.reference'] = reference
  const result = await session.run(feed)
  reference = result['dec.reference.next']
  frames.push(Buffer.from(result.frames.data))
}
writeFileSync(out, Buffer.concat(frames))
console.log(ort.env.versions.web)
