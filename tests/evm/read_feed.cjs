// An outside client: ethers, told nothing but a node, an address and AggregatorV3Interface.
"use strict";
const path = require("node:path");
const { ethers } = require(path.resolve(__dirname, "..", "..", "node_modules", "ethers"));

const AGGREGATOR_V3 = [
  "function decimals() view returns (uint8)",
  "function description() view returns (string)",
  "function version() view returns (uint256)",
  "function latestRoundData() view returns (uint80 roundId, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredInRound)",
  "function getRoundData(uint80) view returns (uint80 roundId, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredInRound)",
];

async function main([url, address]) {
  const provider = new ethers.JsonRpcProvider(url, undefined, { staticNetwork: true, batchMaxCount: 1 });
  const feed = new ethers.Contract(address, AGGREGATOR_V3, provider);
  const latest = await feed.latestRoundData();
  const rounds = [];
  for (let round = 1n; round <= latest.roundId; round += 1n) rounds.push(await feed.getRoundData(round));
  const plain = (round) => ({ answer: String(round.answer), updated_at: Number(round.updatedAt) });
  const seen = {
    decimals: Number(await feed.decimals()),
    description: await feed.description(),
    round: Number(latest.roundId),
    latest: plain(latest),
    rounds: rounds.map(plain),
  };
  provider.destroy();
  process.stdout.write(JSON.stringify(seen));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
