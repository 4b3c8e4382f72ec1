// An outside client: ethers, told nothing but a node, an address and what a CheckpointAnchor can be asked.
"use strict";
const path = require("node:path");
const { ethers } = require(path.resolve(__dirname, "..", "..", "node_modules", "ethers"));

const ANCHOR = [
  "function origin() view returns (string)",
  "function count() view returns (uint256)",
  "function checkpoint(uint256) view returns (uint64 size, bytes32 root, uint64 anchoredAt, bool proven)",
  "function note(uint256) view returns (string)",
  "function latestNote() view returns (string)",
];

async function main([url, address]) {
  const provider = new ethers.JsonRpcProvider(url, undefined, { staticNetwork: true, batchMaxCount: 1 });
  const anchor = new ethers.Contract(address, ANCHOR, provider);
  const checkpoints = [];
  for (let index = 0n; index < (await anchor.count()); index += 1n) {
    const { size, root, proven } = await anchor.checkpoint(index);
    checkpoints.push({ size: Number(size), root, proven, note: await anchor.note(index) });
  }
  const seen = { origin: await anchor.origin(), latest: await anchor.latestNote(), checkpoints };
  provider.destroy();
  process.stdout.write(JSON.stringify(seen));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
