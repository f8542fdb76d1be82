import { existsSync, readFileSync } from "node:fs";
import ort from "onnxruntime-node";

const model = `${process.argv[2]}/dual.onnx`;
if (!existsSync(model)) {
  console.error("node predict.mjs DEPLOYMENT: votes of the dual predictor for digit.json\n");
  console.error("DEPLOYMENT is what `dualsmooth export digits-dual --out DEPLOYMENT` wrote.");
  process.exit(1);
}
const { pixels } = JSON.parse(readFileSync(new URL("digit.json", import.meta.url)));
const uint32 = (value) => new ort.Tensor("uint32", Uint32Array.of(value), []);

const session = await ort.InferenceSession.create(model, { intraOpNumThreads: 1 });
const found = await session.run({
  image: new ort.Tensor("float32", Float32Array.from(pixels, (p) => p / 255), [8, 8, 1]),
  key: new ort.Tensor("uint32", Uint32Array.of(0, 0), [2]), // seed, low word first
  image_id: uint32(0),
  attempt: uint32(0),
  first: uint32(0),
  n: new ort.Tensor("int64", BigInt64Array.of(1000n), []),
});
console.log("selector", Array.from(found.selector_votes.data, Number).join(" "));
console.log("sigma", found.sigma.data[0].toFixed(2));
console.log("votes", Array.from(found.votes.data, Number).join(" "));
